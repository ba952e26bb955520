package program_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/instantgrid/instantgrid/gridapi/rpc/program"
)

// A program of this computer as a function, for rpc.RegisterStream: the argument
// is its standard input, the result its standard output.
func ExampleNew() {
	sorted, err := program.New(program.Config{Path: "sort"})
	if err != nil {
		log.Fatal(err)
	}
	var out bytes.Buffer
	if err := sorted(context.Background(), strings.NewReader("pear\napple\n"), &out); err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.String())
	// Output:
	// apple
	// pear
}
