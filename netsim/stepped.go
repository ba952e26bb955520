package netsim

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"
)

// A Stepped runs a scenario with scripted hosts on a clock of its own, in the
// goroutine of its caller. Equal seeds and equal scripts give equal traces,
// packet by packet. Its methods are for one goroutine.
type Stepped struct {
	core *core
	hash uint64
	sum  [64]byte // scratch of record
	see  func(TraceEvent)
}

// NewStepped prepares sc. Nothing happens until Run.
func NewStepped(sc Scenario) (*Stepped, error) {
	c := newCore(sc.Seed)
	if err := c.load(sc); err != nil {
		return nil, err
	}
	s := &Stepped{core: c}
	c.trace = s.record
	return s, nil
}

// Trace calls f for every step of every packet from here on; nil ends it. f
// must not keep the payload.
func (s *Stepped) Trace(f func(TraceEvent)) { s.see = f }

// Hash returns a hash over every step of every packet so far: when, what,
// where, source, destination and payload.
func (s *Stepped) Hash() uint64 { return s.hash }

// Now returns the virtual time since the start.
func (s *Stepped) Now() time.Duration { return s.core.now }

// At calls f when the clock shows at, or next if that has passed. f may call
// any method but Run.
func (s *Stepped) At(at time.Duration, f func()) {
	s.core.queue.push(event{at: max(at, s.core.now), fn: f})
}

// Run lets everything happen up to and including the moment until.
func (s *Stepped) Run(until time.Duration) { s.core.run(until) }

// Addr returns the address of a host on its own network, or of a NAT on its
// parent's; the zero Addr if there is no such node.
func (s *Stepped) Addr(node string) netip.Addr {
	if n := s.core.byName[node]; n != nil {
		return n.addr
	}
	return netip.Addr{}
}

// Bind has receive called for every datagram that reaches a port of a host;
// port zero picks one. receive may call any method but Run, and must not keep
// payload.
func (s *Stepped) Bind(host string, port uint16, receive func(from netip.AddrPort, payload []byte)) (*Port, error) {
	n := s.core.byName[host]
	if n == nil || n.sockets == nil {
		return nil, fmt.Errorf("netsim: no host %q", host)
	}
	p := &Port{s: s, node: n, receive: receive}
	port, ok := n.bind(port, p)
	if !ok {
		return nil, fmt.Errorf("netsim: port %d of %q is taken", port, host)
	}
	p.addr = netip.AddrPortFrom(n.addr, port)
	return p, nil
}

// SetUplink changes the link between a node and its parent.
func (s *Stepped) SetUplink(node string, l Link) error {
	n := s.core.byName[node]
	if n == nil {
		return fmt.Errorf("netsim: no node %q", node)
	}
	if err := l.validate("uplink", node); err != nil {
		return err
	}
	n.setUplink(l)
	return nil
}

// Reboot makes a NAT forget all mappings.
func (s *Stepped) Reboot(nat string) error {
	n := s.core.byName[nat]
	if n == nil || n.nat == nil {
		return fmt.Errorf("netsim: no NAT %q", nat)
	}
	n.nat.reboot()
	return nil
}

// Apply does what e says, now; At, Every and Times are not used.
func (s *Stepped) Apply(e Event) error { return s.core.apply(e) }

// Mappings returns how many mappings of a NAT are alive, and how many have
// expired; zero if there is no such NAT.
func (s *Stepped) Mappings(nat string) (alive int, expired uint64) {
	n := s.core.byName[nat]
	if n == nil || n.nat == nil {
		return 0, 0
	}
	n.nat.expire(s.core.now)
	return len(n.nat.byOutside), n.nat.expired
}

// Stats counts packets since the start.
func (s *Stepped) Stats() Stats { return s.core.statistics() }

// Drops returns what was dropped, by place and then by cause.
func (s *Stepped) Drops() []Drop { return s.core.drops() }

// record mixes one step into the hash.
func (s *Stepped) record(at time.Duration, k TraceKind, place string, cause DropCause, p *packet) {
	h := fnv.New64a()
	b := binary.BigEndian.AppendUint64(s.sum[:0], s.hash)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = append(b, byte(k), byte(cause))
	b = appendAddrPort(b, p.src)
	b = appendAddrPort(b, p.dst)
	h.Write(b)
	if p.tooBig > 0 {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(p.tooBig)))
	}
	h.Write([]byte(place))
	h.Write(p.payload)
	s.hash = h.Sum64()
	if s.see != nil {
		traceTo(s.see)(at, k, place, cause, p)
	}
}

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	b = append(b, ip[:]...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// A Port is a bound UDP port of a scripted host.
type Port struct {
	s       *Stepped
	node    *node
	addr    netip.AddrPort
	receive func(netip.AddrPort, []byte)
}

// Addr returns the transport address on the host's own network.
func (p *Port) Addr() netip.AddrPort { return p.addr }

// Send sends a datagram now, unless the host knows that it is too large for
// its way. payload is copied.
func (p *Port) Send(to netip.AddrPort, payload []byte) {
	p.s.core.inject(p.node, newPacket(p.addr, to, payload))
}

// deliver runs the script as an event of its own, so that hosts which answer
// over links without delay do not nest.
func (p *Port) deliver(pk *packet) bool {
	p.s.core.queue.push(event{at: p.s.core.now, fn: func() {
		p.receive(pk.src, pk.payload)
		pk.free()
	}})
	return true
}
