package netsim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// A core is the simulated network as a state machine: packets and the time go
// in, packets come out at sockets, and the next deadline is that of its event
// queue. It has no goroutine, lock or clock; whoever drives it owns it.
type core struct {
	now    time.Duration // virtual, since the start
	queue  eventQueue
	rng    *rand.Rand
	plan   *addressPlan
	root   segment // the Internet in the middle
	byName map[string]*node
	nodes  []*node // in the order of their addition
	stats  Stats   // without InFlight
	trace  tracer  // nil: none
}

// A segment is the network below the core or behind one NAT. It adds no delay.
type segment struct {
	place  string
	router *node // nil: the core
	byAddr map[netip.Addr]*node
	drops  [causes]uint64
}

// A node is a NAT or a host, with the link to its parent.
type node struct {
	name     string
	addr     netip.Addr // on the parent's segment
	parent   *segment
	uplink   Link // as it was set
	up, down direction
	drops    [causes]uint64

	// Of a NAT.
	nat    *translator
	subnet netip.Prefix
	inside *segment

	// Of a host.
	sockets  map[uint16]socket
	asleep   bool
	mtus     map[netip.Addr]learnedMTU // by remote address; nil: none
	lastPort uint16                    // given by the host itself
}

// A socket takes what arrives at a port of a host.
type socket interface {
	// deliver owns p from here on. It reports false if there is no room; then
	// p stays with the caller.
	deliver(p *packet) bool
}

func newCore(seed uint64) *core {
	c := &core{
		rng:    rand.New(rand.NewPCG(seed, 0x6e657473696d)), // "netsim"
		plan:   newAddressPlan(),
		byName: make(map[string]*node),
	}
	c.root.place = "core"
	c.root.byAddr = make(map[netip.Addr]*node)
	return c
}

// load adds the nodes of a scenario.
func (c *core) load(sc Scenario) error {
	if err := sc.Validate(); err != nil {
		return err
	}
	nats, err := sc.natsParentsFirst()
	if err != nil {
		return err
	}
	for _, n := range nats {
		if _, err := c.addNAT(n); err != nil {
			return err
		}
	}
	for _, h := range sc.Hosts {
		if _, err := c.addHost(h); err != nil {
			return err
		}
	}
	for _, e := range sc.Events {
		c.schedule(e)
	}
	return nil
}

func (c *core) addNAT(d NATNode) (*node, error) {
	n, err := c.attach(d.Name, d.Parent, d.Uplink)
	if err != nil {
		return nil, err
	}
	if n.subnet, err = c.plan.network(d.Name, d.Inside); err != nil {
		return nil, err
	}
	n.nat = newTranslator(d.NAT, n.outsideAddresses(d.NAT.Addresses), c.rng)
	for _, a := range n.nat.addresses[1:] {
		if n.parent.byAddr[a] != nil {
			return nil, fmt.Errorf("netsim: address %v of NAT %q is taken", a, d.Name)
		}
		n.parent.byAddr[a] = n
	}
	n.inside = &segment{place: d.Name, router: n, byAddr: make(map[netip.Addr]*node)}
	return n, nil
}

// outsideAddresses returns the node's address and those that follow it.
func (n *node) outsideAddresses(count int) []netip.Addr {
	all := []netip.Addr{n.addr}
	for len(all) < count {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}

func (c *core) addHost(d HostNode) (*node, error) {
	n, err := c.attach(d.Name, d.Parent, d.Uplink)
	if err != nil {
		return nil, err
	}
	n.sockets = make(map[uint16]socket)
	return n, nil
}

func (c *core) attach(name, parent string, l Link) (*node, error) {
	seg := &c.root
	if parent != "" {
		p := c.byName[parent]
		if p == nil || p.inside == nil {
			return nil, fmt.Errorf("netsim: no NAT %q", parent)
		}
		seg = p.inside
	}
	if c.byName[name] != nil {
		return nil, fmt.Errorf("netsim: two nodes named %q", name)
	}
	addr, err := c.plan.attach(parent)
	if err != nil {
		return nil, err
	}
	n := &node{name: name, addr: addr, parent: seg}
	n.up = direction{place: name + " up", node: n, up: true}
	n.down = direction{place: name + " down", node: n}
	n.setUplink(l)
	seg.byAddr[addr] = n
	c.byName[name] = n
	c.nodes = append(c.nodes, n)
	return n, nil
}

// setUplink changes both directions of the link to the parent.
func (n *node) setUplink(l Link) {
	n.uplink = l
	n.up.set(l)
	n.down.set(l)
}

// run handles every event up to and including now, and makes now the time.
func (c *core) run(now time.Duration) {
	for {
		at, ok := c.queue.next()
		if !ok || at > now {
			break
		}
		e := c.queue.pop()
		c.now = max(c.now, e.at)
		if e.fn != nil {
			e.fn()
			continue
		}
		e.dir.inFlight--
		c.arrive(e.dir, e.p)
	}
	c.now = max(c.now, now)
}

// inject sends p from a host at the present moment, with the host's present
// address. It reports false if the host knows that p is too large for its way;
// then p was not sent.
func (c *core) inject(from *node, p *packet) bool {
	p.src = netip.AddrPortFrom(from.addr, p.src.Port())
	if from.exceeds(c.now, p) {
		p.free()
		return false
	}
	c.stats.Sent++
	if c.trace != nil {
		c.trace(c.now, TraceSend, from.name, 0, p)
	}
	if p.dst.Addr() == from.addr {
		c.toSocket(from, p)
		return true
	}
	if from.asleep {
		c.drop(p, &from.drops, from.name, DropAsleep)
		return true
	}
	c.send(&from.up, p)
	return true
}

// arrive handles p at the far end of a link.
func (c *core) arrive(d *direction, p *packet) {
	n := d.node
	switch {
	case d.up:
		c.route(n.parent, p)
	case n.nat != nil:
		c.inbound(n, p)
	default:
		c.toSocket(n, p)
	}
}

// route forwards p on a segment: to the node that has the address, else
// through the NAT above.
func (c *core) route(s *segment, p *packet) {
	if child := s.byAddr[p.dst.Addr()]; child != nil {
		c.send(&child.down, p)
		return
	}
	r := s.router
	if r == nil || r.subnet.Contains(p.dst.Addr()) {
		c.drop(p, &s.drops, s.place, DropNoRoute)
		return
	}
	hairpin := slices.Contains(r.nat.addresses, p.dst.Addr())
	if hairpin && !r.nat.cfg.Hairpinning {
		c.drop(p, &r.drops, r.name, DropHairpin)
		return
	}
	if !hairpin {
		if cause, ok := r.nat.pass(c.now, p.dst, p.payload); !ok {
			c.drop(p, &r.drops, r.name, cause)
			return
		}
	}
	inside := p.src
	outside, cause, ok := r.nat.outbound(c.now, p.src, p.dst)
	if !ok {
		c.drop(p, &r.drops, r.name, cause)
		return
	}
	p.src = outside
	if c.trace != nil {
		c.trace(c.now, TraceTranslate, r.name, 0, p)
	}
	if hairpin {
		if !r.nat.cfg.HairpinInside {
			inside = outside
		}
		c.translateIn(r, p, inside)
		return
	}
	c.send(&r.up, p)
}

// inbound handles p, which came to a NAT from outside.
func (c *core) inbound(r *node, p *packet) {
	if cause, ok := r.nat.pass(c.now, p.src, p.payload); !ok {
		c.drop(p, &r.drops, r.name, cause)
		return
	}
	c.translateIn(r, p, p.src)
}

// translateIn brings p to the insider that its destination is mapped to, who
// sees source.
func (c *core) translateIn(r *node, p *packet, source netip.AddrPort) {
	if p.tooBig > 0 {
		inside, ok := r.nat.quoted(c.now, p.dst)
		if !ok {
			c.drop(p, &r.drops, r.name, DropNoMapping)
			return
		}
		p.dst = inside
		c.route(r.inside, p)
		return
	}
	inside, cause, ok := r.nat.inbound(c.now, p.dst, p.src)
	if !ok {
		c.drop(p, &r.drops, r.name, cause)
		return
	}
	p.src, p.dst = source, inside
	if c.trace != nil {
		c.trace(c.now, TraceTranslate, r.name, 0, p)
	}
	c.route(r.inside, p)
}

func (c *core) toSocket(n *node, p *packet) {
	if n.asleep {
		c.drop(p, &n.drops, n.name, DropAsleep)
		return
	}
	if p.tooBig > 0 {
		n.learn(c.now, p)
		if c.trace != nil {
			c.trace(c.now, TraceDeliver, n.name, 0, p)
		}
		p.free()
		return
	}
	s := n.sockets[p.dst.Port()]
	if s == nil {
		c.drop(p, &n.drops, n.name, DropNoSocket)
		return
	}
	if c.trace != nil {
		c.trace(c.now, TraceDeliver, n.name, 0, p)
	}
	if !s.deliver(p) {
		c.drop(p, &n.drops, n.name, DropReceiveBuffer)
		return
	}
	c.stats.Delivered++
}

// Ports that a host gives to sockets that ask for none (RFC 6335, section 6).
const (
	firstEphemeral = 49152
	lastEphemeral  = 65535
)

// bind gives s a port of host n: port, or the next free one if port is zero.
func (n *node) bind(port uint16, s socket) (uint16, bool) {
	if port == 0 {
		for range lastEphemeral - firstEphemeral + 1 {
			if n.lastPort < firstEphemeral || n.lastPort == lastEphemeral {
				n.lastPort = firstEphemeral
			} else {
				n.lastPort++
			}
			if n.sockets[n.lastPort] == nil {
				port = n.lastPort
				break
			}
		}
	}
	if port == 0 || n.sockets[port] != nil {
		return 0, false
	}
	n.sockets[port] = s
	return port, true
}
