//go:build !linux

package tun

// Open makes the network interface that a describes. Only Linux is told here
// how to give one addresses and routes.
func Open(a Addressing, _ Changes) (Device, func() error, error) { return nil, nil, notHere(a.Name) }

// Kinds returns the kinds of changes that Open makes: none.
func Kinds() []Kind { return nil }
