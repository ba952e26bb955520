package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"runtime"
)

// A Device moves IP packets between this computer's kernel and an Interface.
// One goroutine reads; any may write.
type Device interface {
	// Name is that of the network interface.
	Name() string

	// MTU is the size of the largest packet in bytes.
	MTU() int

	// Read waits for packets and puts them into the buffers, each behind room
	// bytes that it leaves alone. It sets sizes, of the packets alone, and
	// returns their number. A packet that no buffer holds is dropped. After
	// Close the error is net.ErrClosed.
	Read(buffers [][]byte, sizes []int, room int) (int, error)

	// Write gives packets to the kernel, each of which begins at offset of its
	// buffer. It may change the buffers, and keeps none.
	Write(buffers [][]byte, offset int) error

	// Close removes the interface.
	Close() error
}

// batchSize is how many packets one read returns at most: a GSO packet of 64 KiB
// cut up.
const batchSize = 128

// vnetRoom is what devices may want before each packet: struct virtio_net_hdr.
const vnetRoom = 10

// Addressing is what an interface is to be like.
type Addressing struct {
	Name              string
	MTU               int
	Address, Address6 netip.Addr   // the latter may be invalid
	Prefix, Prefix6   netip.Prefix // what is reached through it
}

// Changes writes every change to this computer down before it is made, so that
// it can be undone after a crash.
type Changes interface {
	// Make writes down a change of a kind that Kinds names, makes it, and
	// returns how to undo it.
	Make(kind string, data any, make func() error) (undo func() error, err error)
}

// unwritten is Changes for whoever does not care.
type unwritten struct{ kinds map[string]Kind }

// An OverlapError is a network that this computer has already, which overlaps
// the grid's.
type OverlapError struct {
	Prefix netip.Prefix // the grid's
	Other  netip.Prefix
	Device string
	Route  bool // it is a route, not an address of the interface
}

func (e *OverlapError) Error() string { return "tun: " + e.Object() + ": " + e.Cause() }

// Object names the grid's network.
func (e *OverlapError) Object() string { return "network " + e.Prefix.String() + " of the grid" }

// Cause names what it overlaps with.
func (e *OverlapError) Cause() string {
	if e.Route {
		return fmt.Sprintf("this computer has the route %v through interface %s, which overlaps it", e.Other, e.Device)
	}
	return fmt.Sprintf("interface %s of this computer has the network %v, which overlaps it", e.Device, e.Other)
}

// Next says what to do.
func (e *OverlapError) Next() string {
	return "take that interface or route down, or use IPv6 only: grid up --tun --tun-ipv6-only"
}

// A DeviceError is a step of the set-up that this computer refuses.
type DeviceError struct {
	Name string
	Step string
	Err  error
}

func (e *DeviceError) Error() string { return "tun: " + e.Object() + ": " + e.Cause() }
func (e *DeviceError) Unwrap() error { return e.Err }

// Object names the interface.
func (e *DeviceError) Object() string { return "interface " + e.Name }

// Cause says which step failed, and why.
func (e *DeviceError) Cause() string {
	switch {
	case errors.Is(e.Err, fs.ErrPermission):
		return e.Step + ": this takes root, or the capability CAP_NET_ADMIN"
	case errors.Is(e.Err, fs.ErrNotExist):
		return e.Step + ": this system offers no TUN devices (there is no /dev/net/tun)"
	}
	return e.Step + ": " + e.Err.Error()
}

// Next says what to do.
func (e *DeviceError) Next() string {
	switch {
	case errors.Is(e.Err, errors.ErrUnsupported):
		return "use grid up without --tun, and programs that go through grid's sockets"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run it as root: sudo grid up --tun (with --dir, if the state is another user's)"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "load the module (modprobe tun); a container needs --device /dev/net/tun"
	case errors.Is(e.Err, fs.ErrExist):
		return "choose another name: grid up --tun --tun-name NAME"
	}
	return "see what is there: ip addr; choose another name: grid up --tun --tun-name NAME"
}

// notHere is the error of systems without support.
func notHere(name string) error {
	return &DeviceError{Name: name, Step: "making it", Err: fmt.Errorf("%w on %s", errors.ErrUnsupported, runtime.GOOS)}
}
