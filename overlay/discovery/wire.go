package discovery

import (
	"context"
	"net/netip"
)

// An Attachment is a local network that multicast DNS is spoken on: an
// interface and our address there.
type Attachment struct {
	Index  int    // the interface's
	Name   string // the interface's
	Prefix netip.Prefix
}

// A Packet is a datagram of multicast DNS that has arrived.
type Packet struct {
	Data  []byte
	From  netip.AddrPort
	Index int // of the interface that it came over; zero: the system does not say
}

// A Wire carries datagrams to and from the multicast DNS group. [System] is that
// of this computer; tests have their own.
type Wire interface {
	// Watch reports the attachments: at once, maybe none, and then after each
	// change, until ctx ends. Reports do not overlap.
	Watch(ctx context.Context, report func([]Attachment)) error

	// Receive waits for the next packet, whose data is the caller's until the
	// next call. It fails for good once the wire is closed.
	Receive() (Packet, error)

	// Send passes a datagram on over an attachment: to the group if to is the
	// zero AddrPort, else to that address. It does not block for long; what
	// cannot be sent is lost.
	Send(at Attachment, to netip.AddrPort, b []byte) error

	Close() error
}

// port is multicast DNS's (RFC 6762, section 3).
const port = 5353
