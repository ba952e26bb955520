package chunk_test

import (
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Whoever takes a chunk from somebody verifies it by its ID.
func Example() {
	id := chunk.Sum([]byte("sealed bytes"))
	fmt.Println(chunk.Verify(id, []byte("sealed bytes")), "-", chunk.Verify(id, []byte("other bytes")))
	// Output: <nil> - chunk: the bytes do not have this hash
}
