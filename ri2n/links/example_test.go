package links_test

import (
	"context"
	"log"

	"github.com/instantgrid/instantgrid/ri2n/links"
)

// The addresses through which packets may leave, as they come and go.
func ExampleWatch() {
	err := links.Watch(context.Background(), links.Config{}, func(c links.Change) { log.Printf("%+v", c) })
	if err != nil {
		log.Fatal(err)
	}
}
