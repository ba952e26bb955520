package tun

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A fakeDevice is a kernel: it is given packets to send, and keeps those that it
// gets.
type fakeDevice struct {
	outgoing chan [][]byte
	closed   chan struct{}

	mu       sync.Mutex
	incoming [][]byte
}

func newFakeDevice() *fakeDevice {
	return &fakeDevice{outgoing: make(chan [][]byte), closed: make(chan struct{})}
}

func (d *fakeDevice) Name() string { return "fake0" }
func (d *fakeDevice) MTU() int     { return 1280 }

func (d *fakeDevice) Read(buffers [][]byte, sizes []int, room int) (int, error) {
	select {
	case list := <-d.outgoing:
		for k, p := range list {
			sizes[k] = copy(buffers[k][room:], p)
		}
		return len(list), nil
	case <-d.closed:
		return 0, net.ErrClosed
	}
}

func (d *fakeDevice) Write(buffers [][]byte, offset int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range buffers {
		d.incoming = append(d.incoming, bytes.Clone(b[offset:]))
	}
	return nil
}

func (d *fakeDevice) Close() error { close(d.closed); return nil }

// take returns what the kernel has got since the last call.
func (d *fakeDevice) take() [][]byte {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.incoming
	d.incoming = nil
	return list
}

// A fakeCarrier keeps the content of what is sent.
type fakeCarrier struct {
	mu    sync.Mutex
	most  int
	dead  bool
	sent  [][]byte
	flows []uint32
}

func (c *fakeCarrier) Usable() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.dead }
func (c *fakeCarrier) setDead(dead bool) {
	c.mu.Lock()
	c.dead = dead
	c.mu.Unlock()
}

func (c *fakeCarrier) MaxContent() int { c.mu.Lock(); defer c.mu.Unlock(); return c.most }

func (c *fakeCarrier) Send(flow uint32, list [][]byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, b := range list {
		if len(b)-1 > c.most {
			return k, ri2n.ErrDatagramTooLarge
		}
		c.sent = append(c.sent, bytes.Clone(b[1:]))
		c.flows = append(c.flows, flow)
	}
	return len(list), nil
}

func (c *fakeCarrier) take() [][]byte {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.sent
	c.sent = nil
	return list
}

// A fakeNode is a grid of one other member.
type fakeNode struct {
	other overlay.IPMember
	open  []uint16

	mu        sync.Mutex
	carrier   *fakeCarrier
	connected bool
	dialTime  time.Duration
	refuses   bool
	dials     int
	refreshes int
}

func (n *fakeNode) MemberAt(a netip.Addr) (overlay.IPMember, bool) { return n.other, n.other.Has(a) }
func (n *fakeNode) MayOpen(_ ri2n.PeerID, port uint16) bool        { return slices.Contains(n.open, port) }
func (n *fakeNode) HandleIP(overlay.IPHandler)                     {}
func (n *fakeNode) refresh(context.Context)                        { n.mu.Lock(); n.refreshes++; n.mu.Unlock() }

func (n *fakeNode) session(ri2n.PeerID) (carrier, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.carrier, n.connected
}

func (n *fakeNode) connect(ctx context.Context, _ ri2n.PeerID) error {
	n.mu.Lock()
	n.dials++
	n.mu.Unlock()
	select {
	case <-time.After(n.dialTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuses {
		return errors.New("refused")
	}
	n.connected = true
	return nil
}

// An interfaceRig is an Interface between a fake kernel and a fake node.
type interfaceRig struct {
	*Interface
	kernel *fakeDevice
	node   *fakeNode
	wire   *fakeCarrier
}

// rig runs f with an interface, whose session is up unless f says otherwise.
func rig(t *testing.T, f func(t *testing.T, r *interfaceRig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &interfaceRig{kernel: newFakeDevice(), wire: &fakeCarrier{most: 1400}}
		r.node = &fakeNode{
			other:   overlay.IPMember{Peer: ri2n.PeerID{2}, Address: their4, Address6: their6},
			carrier: r.wire, connected: true, dialTime: time.Second,
		}
		network := overlay.IPNetwork{
			Self:   overlay.IPMember{Peer: ri2n.PeerID{1}, Address: our4, Address6: our6},
			Prefix: netip.MustParsePrefix("100.90.0.0/16"), Prefix6: netip.MustParsePrefix("fd00::/48"),
		}
		r.Interface = newInterface(network, r.node, r.kernel, nil)
		r.start()
		f(t, r)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// out has the kernel send packets in one burst.
func (r *interfaceRig) out(packets ...[]byte) {
	r.kernel.outgoing <- packets
	synctest.Wait()
}

// in has the peer send datagrams with this content.
func (r *interfaceRig) in(from overlay.IPMember, contents ...[]byte) {
	var buffers [][]byte
	for _, b := range contents {
		buffers = append(buffers, append(make([]byte, overlay.IPRoom), b...))
	}
	r.HandleIP(from, buffers)
}

func TestPacketsGoBothWays(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		a, b := fromUs(protoUDP, udp(4000, 53, 1)), ip6(protoUDP, our6, their6, udp(4000, 53, 2))
		r.out(a, a, b)
		if got := r.wire.take(); len(got) != 3 || !bytes.Equal(got[0], a) || !bytes.Equal(got[2], b) {
			t.Errorf("sent %x", got)
		}
		if f := r.wire.flows; f[0] != f[1] || f[0] == f[2] {
			t.Errorf("flows %d", f)
		}
		x, y := fromThem(protoUDP, udp(53, 4000, 3)), ip6(protoUDP, their6, our6, udp(53, 4000, 4))
		r.in(r.node.other, x, y)
		if got := r.kernel.take(); len(got) != 2 || !bytes.Equal(got[0], x) || !bytes.Equal(got[1], y) {
			t.Errorf("received %x", got)
		}
		s := r.Status()
		if s.Counters.PacketsSent != 3 || s.Counters.PacketsReceived != 2 || s.Counters.BytesSent != uint64(2*len(a)+len(b)) || s.Flows != 2 || s.Peers != 1 || s.Counters.Dropped != (Drops{}) {
			t.Errorf("status %+v", s)
		}
	})
}

// Whatever has another source than its sender, or another destination than the
// receiver, is dropped and counted.
func TestForgedPacketsAreDropped(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		r.node.open = []uint16{0, 53}
		other4, other6 := netip.MustParseAddr("100.90.0.3"), netip.MustParseAddr("fd00::3")
		r.in(r.node.other,
			ip4(protoUDP, other4, our4, udp(1, 53)), ip6(protoUDP, other6, our6, udp(1, 53)), ip4(protoUDP, our4, our4, udp(1, 53)),
			ip4(protoUDP, their4, other4, udp(1, 53)), ip6(protoUDP, their6, other6, udp(1, 53)), ip4(protoUDP, their4, netip.MustParseAddr("255.255.255.255"), udp(1, 53)),
			[]byte{}, []byte{0x45}, []byte{0x03, 1, 2, 3}, []byte{formFirst, 1, 2},
			fromThem(protoTCP, tcp(1, 25, tcpSYN)),
		)
		if got := r.kernel.take(); len(got) != 0 {
			t.Errorf("received %x", got)
		}
		d := r.Status().Counters.Dropped
		if d.WrongSource != 3 || d.NotToUs != 3 || d.Malformed != 4 || d.Closed != 1 {
			t.Errorf("dropped %+v", d)
		}
		// The closed port is answered, and nothing else.
		got := r.wire.take()
		if len(got) != 1 {
			t.Fatalf("answers %x", got)
		}
		if p, err := parsePacket(got[0]); err != nil || p.icmpType != 3 || p.icmpCode != 13 || p.src != our4 || p.dst != their4 {
			t.Errorf("answer %+v, %v", p, err)
		}
		// What this computer sends must be its own.
		r.out(ip4(protoUDP, other4, their4, udp(1, 53)))
		r.out(ip4(protoUDP, our4, netip.MustParseAddr("224.0.0.1"), udp(1, 53)), ip6(protoICMP6, our6, netip.MustParseAddr("ff02::2"), icmp(133, 0, 0)))
		r.out([]byte{0x45, 1})
		if got := r.wire.take(); len(got) != 0 {
			t.Errorf("sent %x", got)
		}
		if d := r.Status().Counters.Dropped; d.NotFromUs != 1 || d.Multicast != 2 || d.Malformed != 5 {
			t.Errorf("dropped %+v", d)
		}
	})
}

func TestAddressesOfNobodyAreUnreachable(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		nobody := netip.MustParseAddr("100.90.7.7")
		for range 3 {
			r.out(ip4(protoTCP, our4, nobody, tcp(4000, 80, tcpSYN)))
		}
		got := r.kernel.take()
		if len(got) != 3 || r.Status().Counters.Dropped.NoMember != 3 {
			t.Fatalf("%d answers, %+v", len(got), r.Status())
		}
		p, err := parsePacket(got[0])
		if err != nil || p.icmpType != 3 || p.icmpCode != 1 || p.src != nobody || p.dst != our4 {
			t.Errorf("answer %+v, %v", p, err)
		}
		synctest.Wait()
		if r.node.refreshes != 1 {
			t.Errorf("asked for members %d times, want once", r.node.refreshes)
		}
		// Answers are few, however many packets there are.
		for range 1000 {
			r.out(ip4(protoTCP, our4, nobody, tcp(4000, 80, tcpSYN)))
		}
		if n := len(r.kernel.take()); n > problemBurst {
			t.Errorf("%d answers at once", n)
		}
	})
}

func TestSessionsAreMadeOnDemand(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		r.node.connected = false
		p := fromUs(protoUDP, udp(4000, 53, make([]byte, 1000)...))
		for range 2 * maxWaiting {
			r.out(p)
		}
		if got := r.wire.take(); len(got) != 0 {
			t.Fatalf("%d packets without a session", len(got))
		}
		time.Sleep(2 * time.Second)
		if got := r.wire.take(); len(got) != maxWaiting {
			t.Errorf("%d packets, want %d", len(got), maxWaiting)
		}
		if c := r.Status().Counters; c.Dropped.WaitingFull != maxWaiting || r.node.dials != 1 {
			t.Errorf("%+v after %d dials", c, r.node.dials)
		}
		// The session ends; the next packet makes another.
		r.wire.setDead(true)
		r.node.connected = false
		r.out(p)
		r.wire.setDead(false)
		time.Sleep(2 * time.Second)
		if got := r.wire.take(); len(got) != 1 || r.node.dials != 2 {
			t.Errorf("%d packets after %d dials", len(got), r.node.dials)
		}
	})
}

func TestMembersThatCannotBeReached(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		r.node.connected, r.node.refuses = false, true
		p := fromUs(protoUDP, udp(4000, 53))
		r.out(p)
		time.Sleep(1500 * time.Millisecond)
		if n := len(r.kernel.take()); n != 1 {
			t.Errorf("%d answers", n)
		}
		r.out(p) // at once
		if n := len(r.kernel.take()); n != 1 || r.node.dials != 1 {
			t.Errorf("%d answers, %d dials", n, r.node.dials)
		}
		time.Sleep(dialPause)
		r.out(p)
		if n := len(r.kernel.take()); n != 0 || r.node.dials != 2 {
			t.Errorf("%d answers, %d dials", n, r.node.dials)
		}
	})
}

// A packet that is larger than a datagram goes in halves, and comes whole.
func TestLargePacketsGoInHalves(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		r.wire.most = 700
		small := fromUs(protoUDP, udp(4000, 53, make([]byte, 100)...))
		large := fromUs(protoUDP, udp(4000, 53, bytes.Repeat([]byte("packet"), 200)...))
		r.out(small, large, large, small)
		got := r.wire.take()
		if len(got) != 6 || !bytes.Equal(got[0], small) || !bytes.Equal(got[5], small) || len(got[1]) != len(got[2]) {
			t.Fatalf("%d datagrams", len(got))
		}
		for k, form := range []byte{formFirst, formSecond, formFirst, formSecond} {
			if got[1+k][0] != form {
				t.Errorf("datagram %d begins with %d, want %d", 1+k, got[1+k][0], form)
			}
		}
		if s := r.Status().Counters; s.PacketsSplit != 2 || s.PacketsSent != 4 {
			t.Errorf("%+v", s)
		}
		// The other way around, and out of order.
		r.node.open = []uint16{53}
		theirs := fromThem(protoUDP, udp(4000, 53, bytes.Repeat([]byte("answer"), 200)...))
		half := func(second bool) []byte {
			data := theirs[:600]
			if second {
				data = theirs[600:]
			}
			return appendPart(nil, part{second: second, id: 7, data: data})
		}
		r.in(r.node.other, half(true))
		r.in(r.node.other, half(false))
		if got := r.kernel.take(); len(got) != 1 || !bytes.Equal(got[0], theirs) {
			t.Errorf("received %d packets", len(got))
		}
		// Larger than two datagrams.
		r.wire.most = 500
		r.out(large)
		answers := r.kernel.take()
		if len(answers) != 1 || r.Status().Counters.Dropped.TooBig != 1 {
			t.Fatalf("%d answers, %+v", len(answers), r.Status().Counters)
		}
		if p, err := parsePacket(answers[0]); err != nil || p.icmpType != 3 || p.icmpCode != 4 || int(answers[0][26])<<8|int(answers[0][27]) != 2*(500-partHeaderLen) {
			t.Errorf("answer %x", answers[0][:28])
		}
	})
}

// Peers and flows that are over are forgotten.
func TestIdlePeersAreForgotten(t *testing.T) {
	rig(t, func(t *testing.T, r *interfaceRig) {
		r.out(fromUs(protoUDP, udp(4000, 53)))
		if s := r.Status(); s.Peers != 1 || s.Flows != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(peerLife + 2*tendTime)
		if s := r.Status(); s.Peers != 0 || s.Flows != 0 {
			t.Errorf("%+v", s)
		}
	})
}
