package overlay

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxPending bounds the peers that are being dialed for packets, and
	// maxWaiting the packets that wait for each.
	maxPending = 256
	maxWaiting = 64
	// refusedTime is how long packets are dropped after a dial for them has
	// failed, so that a program that goes on sending does not dial all the time.
	refusedTime = time.Second
	// refusalRate bounds the refusals that a session is sent each second
	// (RFC 1812, section 4.3.2.8, asks for a limit).
	refusalRate = 20
	// doubtTime is the pause between two looks at whether a session that
	// carries packets is still alive.
	doubtTime = time.Second
)

var errTimeout = os.ErrDeadlineExceeded

// packetTable holds the sockets of a node, and what waits for a session.
type packetTable struct {
	node   *Node
	number atomic.Uint32 // of the last packet that went in halves

	mu      sync.RWMutex // guards what follows
	sockets map[uint16]*packetConn
	next    uint16 // where the search for a free port goes on
	closed  bool

	pendingMu sync.Mutex // guards what follows
	pending   map[destination]*pendingPackets
	isPending atomic.Int32 // length of pending
}

// A destination is a peer, or the name of one who is yet to be found.
type destination struct {
	peer ri2n.PeerID
	name string
}

// pendingPackets wait for a session.
type pendingPackets struct {
	packets []pendingPacket
	failed  bool // the dial has: nothing is taken for a while
}

type pendingPacket struct {
	socket  *packetConn
	port    uint16
	payload []byte
}

func (t *packetTable) init(n *Node) {
	t.node = n
	t.sockets = make(map[uint16]*packetConn)
	t.pending = make(map[destination]*pendingPackets)
	n.handlers.datagrams[datagramPort] = t.take
}

// bind registers c, and picks its port if that is zero.
func (t *packetTable) bind(c *packetConn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	taken := t.sockets[c.local.Port] != nil
	if c.local.Port == 0 {
		taken = true
		for range 0x10000 - firstFreePort {
			t.next++
			port := firstFreePort | t.next
			if t.sockets[port] == nil {
				c.local.Port, taken = port, false
				break
			}
		}
	}
	if taken {
		return &net.OpError{Op: "listen", Net: "udp", Addr: c.local, Err: syscall.EADDRINUSE}
	}
	t.sockets[c.local.Port] = c
	return nil
}

func (t *packetTable) release(c *packetConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sockets[c.local.Port] == c {
		delete(t.sockets, c.local.Port)
	}
}

func (t *packetTable) at(port uint16) *packetConn {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sockets[port]
}

// close closes all sockets.
func (t *packetTable) close() {
	t.mu.Lock()
	t.closed = true
	sockets := make([]*packetConn, 0, len(t.sockets))
	for _, c := range t.sockets {
		sockets = append(sockets, c)
	}
	t.mu.Unlock()
	for _, c := range sockets {
		c.Close()
	}
}

// send carries b to a port of a peer, now or as soon as there is a session.
func (t *packetTable) send(c *packetConn, to Addr, name string, b []byte) error {
	if name == "" {
		c.awaits(time.Now(), to)
		if t.isPending.Load() == 0 {
			if a := t.node.peerByID(to.Peer).best(); a != nil && a.carriesNow() {
				a.doubt()
				err := a.sendPacket(packet{from: c.local.Port, to: to.Port, payload: b})
				if err == nil || a.session.Err() == nil {
					return err
				}
			}
		}
	}
	return t.wait(c, destination{to.Peer, name}, to.Port, b)
}

// wait queues a packet for a peer without a session, and dials.
func (t *packetTable) wait(c *packetConn, d destination, port uint16, b []byte) error {
	t.pendingMu.Lock()
	defer t.pendingMu.Unlock()
	w := t.pending[d]
	switch {
	case w == nil && len(t.pending) >= maxPending, w != nil && w.failed:
		t.node.counters.packetsUnsent.Add(1)
		return nil
	case w == nil:
		w = new(pendingPackets)
		if !t.node.spawn(func() { t.connect(d, w) }) {
			return net.ErrClosed
		}
		t.pending[d] = w
		t.isPending.Add(1)
	case len(w.packets) >= maxWaiting:
		w.packets = w.packets[1:]
		t.node.counters.packetsUnsent.Add(1)
	}
	w.packets = append(w.packets, pendingPacket{c, port, append([]byte(nil), b...)})
	return nil
}

// connect makes a session for the packets that wait for d, and sends them.
func (t *packetTable) connect(d destination, w *pendingPackets) {
	ctx, cancel := context.WithTimeout(t.node.ctx, dialTime)
	defer cancel()
	a, err := t.reach(ctx, d)
	for err == nil {
		t.pendingMu.Lock()
		if len(w.packets) == 0 {
			t.forgetLocked(d)
			t.pendingMu.Unlock()
			return
		}
		p := w.packets[0]
		w.packets = w.packets[1:]
		t.pendingMu.Unlock()
		if d.name != "" {
			p.socket.awaits(time.Now(), Addr{a.peer.id, p.port})
		}
		// Nobody waits for what happens to it.
		_ = a.sendPacket(packet{from: p.socket.local.Port, to: p.port, payload: p.payload})
	}
	t.node.log.Debug("packets dropped: no session", "peer", d.peer.Short(), "name", d.name, "err", err)
	t.pendingMu.Lock()
	w.failed = true
	lost := w.packets
	w.packets = nil
	t.pendingMu.Unlock()
	t.node.counters.packetsUnsent.Add(uint64(len(lost)))
	for _, p := range lost {
		p.socket.fail(withNumber(err))
	}
	timer := time.NewTimer(refusedTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.node.ctx.Done():
	}
	t.pendingMu.Lock()
	t.forgetLocked(d)
	t.pendingMu.Unlock()
}

func (t *packetTable) forgetLocked(d destination) {
	delete(t.pending, d)
	t.isPending.Add(-1)
}

// reach returns a session with d that may carry packets.
func (t *packetTable) reach(ctx context.Context, d destination) (*association, error) {
	if d.name != "" {
		var err error
		if d.peer, err = t.node.Resolve(ctx, d.name); err != nil {
			return nil, err
		}
	}
	p := t.node.peerByID(d.peer)
	a, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.mayCarry(ctx); err != nil {
		return nil, p.explain(err)
	}
	return a, nil
}

// carriesNow reports whether the policy lets packets through at this moment.
func (a *association) carriesNow() bool {
	if a.paths.policy() != PathDirectOnly {
		return true
	}
	return a.paths.reason() == punch.Direct
}

// doubt has a session checked that has been silent, now and then: packets alone
// do not tell whether the peer still has it.
func (a *association) doubt() {
	now := time.Now().UnixNano()
	last := a.doubted.Load()
	if now-last >= int64(doubtTime) && a.doubted.CompareAndSwap(last, now) {
		a.checkSoon()
	}
}

// buffers for one datagram each; the session copies them.
var packetBuffers = sync.Pool{New: func() any { return new([maxPacketHeader + MaxPacketSize]byte) }}

// sendPacket sends p as one datagram, or as two where one is too small. What
// finds the session's queue full is lost.
func (a *association) sendPacket(p packet) error {
	buf := packetBuffers.Get().(*[maxPacketHeader + MaxPacketSize]byte)
	defer packetBuffers.Put(buf)
	flow := uint64(datagramPort)<<32 | uint64(p.from)<<16 | uint64(p.to)
	err := a.session.SendDatagram(flow, appendPacket(buf[:0], p))
	if errors.Is(err, ri2n.ErrDatagramTooLarge) {
		first, second := p, p
		first.number = a.node.packets.number.Add(1)
		second.number = first.number
		middle := (len(p.payload) + 1) / 2
		first.part, first.payload = partFirst, p.payload[:middle]
		second.part, second.payload = partSecond, p.payload[middle:]
		a.node.counters.packetsHalved.Add(1)
		err = a.session.SendDatagram(flow, appendPacket(buf[:0], first))
		if err == nil {
			err = a.session.SendDatagram(flow, appendPacket(buf[:0], second))
		}
	}
	if err != nil {
		return err
	}
	if p.part == partWhole {
		a.node.counters.packetsSent.Add(1)
		a.peer.sent.Add(uint64(len(p.payload)))
	}
	return nil
}

// take handles a datagram of kind PORT.
func (t *packetTable) take(a *association, b []byte) {
	n := t.node
	p, err := parsePacket(b)
	if err != nil {
		n.counters.malformed.Add(1)
		return
	}
	now := time.Now()
	if p.part == partFirst || p.part == partSecond {
		whole, lost := a.halves.add(now, p)
		n.counters.halvesLost.Add(uint64(lost))
		if whole == nil {
			return
		}
		p.payload = whole
	}
	from := Addr{a.peer.id, p.from}
	c := t.at(p.to)
	if p.part == partRefusal {
		if c != nil && c.connected() && c.remote.Addr == from {
			c.fail(packetRefusal(a.peer.id, p))
		}
		return
	}
	a.peer.received.Add(uint64(len(p.payload)))
	switch {
	case c != nil && c.expects(now, from):
	case !n.mayOpen(a.peer.id, p.to):
		n.counters.portsRefused.Add(1)
		a.refusePacket(now, p, resetPolicy)
		return
	case c == nil || c.connected():
		n.counters.packetsRefused.Add(1)
		a.refusePacket(now, p, resetRefused)
		return
	}
	if !a.carriesNow() {
		n.counters.packetsRefused.Add(1)
		a.refusePacket(now, p, resetIndirect)
		return
	}
	c.deliver(arrivedPacket{p.payload, PacketAddr{from}})
}

// refusePacket tells the sender of p that nobody has taken it, unless it has
// been told much this second.
func (a *association) refusePacket(now time.Time, p packet, code uint16) {
	if now.Sub(a.refusals.since) >= time.Second {
		a.refusals.since, a.refusals.sent = now, 0
	}
	if a.refusals.sent++; a.refusals.sent > refusalRate {
		return
	}
	// It may be lost, as all packets may.
	_ = a.sendPacket(packet{part: partRefusal, from: p.to, to: p.from, code: code})
}

// refusalCount is how many refusals a session was sent in the current second.
// The goroutine that reads its datagrams owns it.
type refusalCount struct {
	since time.Time
	sent  int
}
