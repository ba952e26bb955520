package disk_test

import (
	"fmt"
	"log"
	"os"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
)

// What Put has acknowledged is there after a crash.
func Example() {
	dir, err := os.MkdirTemp("", "disk")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d, err := disk.Open(disk.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	sealed := []byte("sealed bytes")
	id := chunk.Sum(sealed)
	if err := d.Put(id, sealed); err != nil {
		log.Fatal(err)
	}
	got, err := d.Get(id, nil)
	fmt.Println(string(got), err)
	// Output: sealed bytes <nil>
}
