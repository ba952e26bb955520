package durable_test

import (
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/store/durable"
)

// A record is read by whoever finds it in the register; what is no record is
// refused.
func ExampleParseRecord() {
	_, err := durable.ParseRecord([]byte("no record"))
	fmt.Println(err != nil)
	fmt.Println(durable.Coded.Need, "of", durable.Coded.Slots)
	// Output:
	// true
	// 4 of 6
}
