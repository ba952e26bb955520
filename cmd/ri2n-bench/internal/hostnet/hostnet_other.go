//go:build !linux

package hostnet

import (
	"errors"
	"net/netip"
)

// DisableOffloads is for Linux.
func DisableOffloads(string) error { return errors.ErrUnsupported }

// AllowSubflows is for Linux.
func AllowSubflows(int) error { return errors.ErrUnsupported }

// Announce is for Linux.
func Announce(netip.Addr, uint8) error { return errors.ErrUnsupported }

// Received is for Linux.
func Received(string) (uint64, error) { return 0, errors.ErrUnsupported }
