package overlay

import (
	"crypto/rand"

	"github.com/instantgrid/instantgrid/ri2n"
)

// LoadIdentity returns the key in dir, a node's directory ([Config].Dir),
// without starting a node. It makes directory and key if they do not exist. The
// error is a [*StateError].
func LoadIdentity(dir string) (*ri2n.Identity, error) {
	d := directory(dir)
	if err := d.open(); err != nil {
		return nil, err
	}
	return d.identity(func() (*ri2n.Identity, error) { return ri2n.NewIdentity(rand.Reader) })
}
