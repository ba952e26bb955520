package tun

import "encoding/json"

// Kinds of changes that an Interface makes.
const (
	kindDevice  = "tun-device"
	kindAddress = "tun-address"
	kindRoute   = "tun-route"
)

// deviceChange is what undoing the making of an interface needs.
type deviceChange struct {
	Name  string `json:"name"`
	Alias string `json:"alias"` // by which it is known to be ours
}

// addressChange is what undoing an address or a route needs.
type addressChange struct {
	Name   string `json:"name"`
	Alias  string `json:"alias"`
	Prefix string `json:"prefix"`
}

// A Kind says how changes of one kind are undone, from the data that Make was
// given. A reboot undoes all of them.
type Kind struct {
	Name string
	Undo func(data json.RawMessage) error
}

// Make implements Changes.
func (u unwritten) Make(kind string, data any, make func() error) (func() error, error) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	undo := func() error { return u.kinds[kind].Undo(b) }
	if err := make(); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}
