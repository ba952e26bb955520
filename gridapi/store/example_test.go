package store_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/instantgrid/instantgrid/gridapi/store"
)

// An object is put, and got by its ID.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := store.Open(store.Config{Dir: dir, Key: store.NewKey()})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	x, err := s.PutBytes(ctx, []byte("twenty computers in six homes"), store.PutOptions{Pin: true})
	if err != nil {
		log.Fatal(err)
	}
	b, err := s.GetBytes(ctx, x.ID, 1<<20)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(b))
	// Output: twenty computers in six homes
}
