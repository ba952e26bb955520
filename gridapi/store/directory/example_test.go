package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/instantgrid/instantgrid/gridapi/store/directory"
)

// Who is alone learns no key.
func Example() {
	d := &directory.Directory{
		Dial:    func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody is there") },
		Members: func(context.Context) []string { return nil },
	}
	_, err := d.Key(context.Background())
	fmt.Println(err)
	// Output: directory: no member has the store's key
}
