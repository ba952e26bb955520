package ri2n

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// A Carrier moves datagrams to and from one peer in place of a UDP socket: a
// relay channel. Its methods may be called concurrently and must not block.
type Carrier interface {
	// Send passes b on and keeps no reference to it. It may drop b; an error
	// is treated as loss.
	Send(b []byte) error

	// MaxDatagram is the size in bytes of the largest datagram that Send
	// takes now, at least 1000. It may change.
	MaxDatagram() int
}

// A BurstCarrier is a Carrier that takes several datagrams at once, and can pass
// them on with less work than one by one.
type BurstCarrier interface {
	Carrier

	// SendBurst is Send for all of list.
	SendBurst(list [][]byte) error
}

// A Link is one local network attachment of an endpoint, or a carrier.
type Link struct {
	endpoint *Endpoint
	name     string
	carrier  Carrier // nil for a socket
	socket   socket  // nil for a carrier
	other    *otherConn
	closed   atomic.Bool

	interfaceMTU int // of the local attachment, in bytes
}

func newLink(e *Endpoint, name string) *Link { return &Link{endpoint: e, name: name} }

// Name returns the name that AddLink or AddCarrier was given.
func (l *Link) Name() string { return l.name }

// IsCarrier reports whether the link is a relay channel.
func (l *Link) IsCarrier() bool { return l.carrier != nil }

// LocalAddr returns the socket's address, or nil for a carrier.
func (l *Link) LocalAddr() net.Addr {
	if l.socket == nil {
		return nil
	}
	return l.socket.localAddr()
}

// Other returns those datagrams of the link's socket that are not RI2N (bit 6
// of the first byte clear: STUN and probes) as a [net.PacketConn] that sends
// from the same socket. It returns the same value each time, and nil for a
// carrier. Its queue holds 256 datagrams and drops the oldest; closing it
// stops the queue and leaves the socket open.
func (l *Link) Other() net.PacketConn {
	if l.other == nil {
		return nil
	}
	return l.other
}

// Deliver hands the link a datagram that arrived on its carrier. The link may
// change b during the call and keeps no reference to it.
func (l *Link) Deliver(b []byte) {
	if l.carrier == nil || l.closed.Load() {
		return
	}
	r := receiver{endpoint: l.endpoint, link: l, now: time.Now()}
	r.datagram(b, netip.AddrPort{})
	r.finish()
}

// Close abandons the paths that use the link and closes its socket. Sessions
// with another path go on there; the others wait for a new path until their
// idle time-out.
func (l *Link) Close() error {
	if !l.closed.Swap(true) {
		e := l.endpoint
		e.mu.Lock()
		delete(e.links, l)
		sessions := make([]*Session, 0, len(e.sessions))
		for s := range e.sessions {
			sessions = append(sessions, s)
		}
		e.mu.Unlock()
		for _, s := range sessions {
			s.linkClosed(l)
		}
	}
	return l.closeSocket()
}

func (l *Link) closeSocket() error {
	l.closed.Store(true)
	if l.socket == nil {
		return nil
	}
	l.other.Close()
	return l.socket.close()
}

// read is the socket's reader goroutine.
func (l *Link) read() {
	r := receiver{endpoint: l.endpoint, link: l}
	for failures := 0; ; failures++ {
		before := l.endpoint.counters.datagramsReceived.Load()
		err := l.socket.receive(&r)
		r.finish()
		if l.endpoint.counters.datagramsReceived.Load() != before {
			failures = 0
		}
		if l.closed.Load() || errors.Is(err, net.ErrClosed) || failures > 100 {
			return
		}
		time.Sleep(time.Millisecond) // an ICMP error or a passing lack of buffers
	}
}

// send passes one burst of datagrams of size bytes each, the last one maybe
// shorter, to remote. It reports true when the system says that no way leads
// there, as when an interface has gone.
func (l *Link) send(burst []byte, size int, remote netip.AddrPort) (unreachable bool) {
	return l.sendBurst(burst, size, remote, true)
}

// sendBurst is send, except that the datagrams leave one by one unless whole
// is set.
func (l *Link) sendBurst(burst []byte, size int, remote netip.AddrPort, whole bool) (unreachable bool) {
	c := &l.endpoint.counters
	c.bursts.Add(1)
	c.bytesSent.Add(uint64(len(burst)))
	c.datagramsSent.Add(uint64((len(burst) + size - 1) / size))
	if l.closed.Load() {
		return true
	}
	if l.carrier == nil {
		if err := l.socket.write(burst, size, remote, whole); err != nil {
			c.sendErrors.Add(1)
			return isUnreachable(err)
		}
		return false
	}
	if several, ok := l.carrier.(BurstCarrier); ok && len(burst) > size {
		var list [maxBurstPackets][]byte
		n := 0
		for ; len(burst) > 0; n++ {
			list[n] = burst[:min(size, len(burst))]
			burst = burst[len(list[n]):]
		}
		if err := several.SendBurst(list[:n]); err != nil {
			c.sendErrors.Add(1)
		}
		return false
	}
	for len(burst) > 0 {
		n := min(size, len(burst))
		if err := l.carrier.Send(burst[:n]); err != nil {
			c.sendErrors.Add(1)
		}
		burst = burst[n:]
	}
	return false
}

// isUnreachable reports whether the system says that the interface, its address
// or its route has gone, rather than that something went wrong this once.
func isUnreachable(err error) bool {
	for _, gone := range []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.ENODEV} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// baseSize is the datagram size that every path of the link is assumed to
// pass until a probe says otherwise (docs/wire-format.md, path MTU).
func (l *Link) baseSize() int {
	if l.carrier != nil {
		return max(minBaseSize, min(l.carrier.MaxDatagram(), baseSize))
	}
	return baseSize
}

// maxSize is the largest datagram that may be tried on the link.
func (l *Link) maxSize() int {
	if l.carrier != nil {
		return max(minBaseSize, l.carrier.MaxDatagram())
	}
	return baseSize
}

const (
	baseSize      = 1200 // of Initials, challenges and data until probed
	smallBaseSize = 1040 // the floor of any UDP path: an underlay of 1124 leaves 1096
	minBaseSize   = 1000 // of a relayed path
	maxReadSize   = 64 << 10
)
