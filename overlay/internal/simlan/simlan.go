// Package simlan is a local network without sockets, for tests of discovery in
// virtual time: what one wire sends to the group all hear, the sender included.
package simlan

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/instantgrid/instantgrid/overlay/discovery"
)

// A LAN joins wires.
type LAN struct {
	mu     sync.Mutex // guards what follows
	wires  []*Wire
	filter func(from netip.Addr, data []byte) bool // nil: everything passes
	tap    func(to netip.AddrPort, data []byte)
	sent   int
}

// Sent returns how many datagrams were sent to the group.
func (l *LAN) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// SetFilter has f decide what passes; nil lets everything through.
func (l *LAN) SetFilter(f func(from netip.Addr, data []byte) bool) {
	l.mu.Lock()
	l.filter = f
	l.mu.Unlock()
}

// A Wire is one computer's attachment.
type Wire struct {
	lan     *LAN
	in      chan discovery.Packet
	closed  chan struct{}
	once    sync.Once
	reports chan []discovery.Attachment

	mu sync.Mutex
	at []discovery.Attachment
}

// queue is how many packets wait for a reader; what comes then is lost.
const queue = 4096

// Attach returns a wire with an address on the LAN; the zero Prefix is one that
// is not attached yet.
func (l *LAN) Attach(addr netip.Prefix) *Wire {
	w := &Wire{lan: l, in: make(chan discovery.Packet, queue), closed: make(chan struct{}), reports: make(chan []discovery.Attachment, 8)}
	w.Move(addr)
	l.mu.Lock()
	l.wires = append(l.wires, w)
	l.mu.Unlock()
	return w
}

// Move gives the wire another address; the zero Prefix takes it off the LAN.
func (w *Wire) Move(addr netip.Prefix) {
	var list []discovery.Attachment
	if addr.IsValid() {
		list = []discovery.Attachment{{Index: 1, Name: "lan0", Prefix: addr}}
	}
	w.mu.Lock()
	w.at = list
	w.mu.Unlock()
	w.reports <- list
}

// Watch implements [discovery.Wire].
func (w *Wire) Watch(ctx context.Context, report func([]discovery.Attachment)) error {
	for {
		select {
		case list := <-w.reports:
			report(list)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Receive implements [discovery.Wire].
func (w *Wire) Receive() (discovery.Packet, error) {
	select {
	case p := <-w.in:
		return p, nil
	case <-w.closed:
		return discovery.Packet{}, net.ErrClosed
	}
}

// Send implements [discovery.Wire].
func (w *Wire) Send(at discovery.Attachment, to netip.AddrPort, b []byte) error {
	w.lan.Inject(netip.AddrPortFrom(at.Prefix.Addr(), 5353), to, b)
	return nil
}

// Inject sends a datagram from anywhere.
func (l *LAN) Inject(from, to netip.AddrPort, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !to.IsValid() {
		l.sent++
	}
	if l.tap != nil {
		l.tap(to, slices.Clone(b))
	}
	if l.filter != nil && !l.filter(from.Addr(), b) {
		return
	}
	for _, w := range l.wires {
		w.mu.Lock()
		here := slices.ContainsFunc(w.at, func(a discovery.Attachment) bool {
			return !to.IsValid() || to.Addr() == a.Prefix.Addr() && to.Port() == 5353
		})
		w.mu.Unlock()
		if here {
			select {
			case w.in <- discovery.Packet{Data: slices.Clone(b), From: from, Index: 1}:
			default:
			}
		}
	}
}

// Close implements [discovery.Wire].
func (w *Wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// Pending reports whether Receive has something to return.
func (w *Wire) Pending() bool { return len(w.in) > 0 }

// Tap has f see every datagram before the filter does. It must not call the LAN.
func (l *LAN) Tap(f func(to netip.AddrPort, data []byte)) {
	l.mu.Lock()
	l.tap = f
	l.mu.Unlock()
}
