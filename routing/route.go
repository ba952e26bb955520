package routing

import "time"

// MaxHops is how many times a routed message may be passed on.
const MaxHops = 32

// maxRouteTries is how many next hops one node tries for one message.
const maxRouteTries = 6

// A Delivery is a routed message that has arrived.
type Delivery struct {
	Key     Key
	Origin  *Member // verified
	Hops    int     // how many times the message was passed on; zero: it is our own
	Payload []byte  // the receiver may keep it and must not change it
}

// Route sends payload, which is copied, towards key: from node to node, each
// nearer to the key than the one before, until no contact is nearer. The
// service's Deliver gets it there, which may be here. Each hop is acknowledged
// and tried again elsewhere; what both ends need beyond that is theirs to add,
// since the last node may die with the message. Payloads have at most
// [MaxPayload] bytes; more panics.
func (n *Node) Route(now time.Time, key Key, s Service, payload []byte) {
	if len(payload) > MaxPayload {
		panic("routing: a routed message is at most MaxPayload bytes")
	}
	n.forward(now, &message{
		kind: kindRoute, key: key, service: s, limit: MaxHops,
		id: n.rand.Uint64(), origin: n.self, payload: append([]byte(nil), payload...),
	})
}

// routed takes a message that from passes on.
func (n *Node) routed(now time.Time, from *Member, m *message) {
	if m.limit == 0 {
		n.counters.RouteHops++
		n.refuse(from, m.request, ReasonHops)
		return
	}
	n.send(from, &message{kind: kindRouted, request: m.request})
	next := *m
	next.limit--
	n.forward(now, &next)
}

// A forwarding is one routed message that this node passes on.
type forwarding struct {
	m       *message
	tried   []*Member
	waiting int // tries without an outcome
	taken   bool
}

// forward passes m on, or delivers it.
func (n *Node) forward(now time.Time, m *message) {
	n.tryNext(now, &forwarding{m: m})
}

// tryNext tries the nearest contact that was not tried yet. All that it tries
// are nearer to the key than this node, so no message runs in a circle. Where
// all of them are silent, this node is the nearest alive.
func (n *Node) tryNext(now time.Time, f *forwarding) {
	if f.taken {
		return
	}
	if len(f.tried) >= maxRouteTries {
		if f.waiting == 0 {
			f.taken = true
			n.counters.RouteAbandoned++
		}
		return
	}
	next := n.nextHop(&f.m.key, f.tried)
	if next == nil {
		if f.waiting == 0 {
			f.taken = true
			n.deliver(now, f.m)
		}
		return
	}
	f.tried = append(f.tried, next)
	out := *f.m
	_, err := n.requestSlow(now, next, &out, func(now time.Time, _ *message, err error) {
		f.waiting--
		if err == nil {
			f.taken = true
			return
		}
		n.tryNext(now, f)
	}, func(now time.Time) { n.tryNext(now, f) })
	if err != nil {
		n.counters.RouteAbandoned++
		return
	}
	f.waiting++
	n.counters.RoutedOn++
}

// nextHop returns the contact nearest to key that is nearer than this node and
// not among tried. Those without a session come after those with one, and those
// that have failed come last.
func (n *Node) nextHop(key *Key, tried []*Member) *Member {
	var buf [96]*Member
	fails := uint8(0)
	connected := n.cfg.Connected != nil
	usable := func(c *contact) bool {
		if c.fails > fails || connected && !n.cfg.Connected(c.m.Peer) || !key.closer(&c.m.position, &n.self.position) {
			return false
		}
		for _, t := range tried {
			if t.Peer == c.m.Peer {
				return false
			}
		}
		return true
	}
	if connected {
		if near := n.table.closest(buf[:0], key, 1, usable); len(near) > 0 {
			return near[0]
		}
		connected = false
	}
	for ; fails <= maxFails; fails++ {
		if near := n.table.closest(buf[:0], key, 1, usable); len(near) > 0 {
			return near[0]
		}
	}
	return nil
}

// deliver gives m to its service, once.
func (n *Node) deliver(now time.Time, m *message) {
	origin := m.origin
	if origin.Peer != n.self.Peer {
		if origin = n.verifyParsed(origin); origin == nil {
			n.counters.Lies++
			return
		}
	}
	if n.routes.repeated(routeID{origin.Peer, m.id}) {
		n.counters.RouteRepeated++
		return
	}
	h := n.services[m.service]
	if h.Deliver == nil {
		n.counters.RouteUnserved++
		return
	}
	n.counters.Delivered++
	h.Deliver(now, Delivery{Key: m.key, Origin: origin, Hops: int(MaxHops - m.limit), Payload: m.payload})
}

// remembered is how many delivered messages a node remembers, so that a
// message which a hop passed on twice arrives once.
const remembered = 256

// A routeID names one routed message.
type routeID struct {
	origin PeerID
	id     uint64
}

// A routeMemory remembers the last messages delivered.
type routeMemory struct {
	seen  map[routeID]struct{}
	order ring[routeID]
}

// repeated reports whether id was delivered before, and remembers it.
func (r *routeMemory) repeated(id routeID) bool {
	if _, ok := r.seen[id]; ok {
		return true
	}
	if r.seen == nil {
		r.seen = make(map[routeID]struct{})
	}
	if old, full := r.order.push(id, remembered); full {
		delete(r.seen, old)
	}
	r.seen[id] = struct{}{}
	return false
}
