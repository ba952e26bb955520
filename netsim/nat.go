package netsim

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// A mapping is one row of a NAT's table (RFC 4787, section 4.1).
type mapping struct {
	key     mappingKey
	inside  netip.AddrPort
	outside netip.AddrPort
	pool    *pool         // that outside is of; nil: a preserved port out of range
	last    time.Duration // when traffic last refreshed it
	replied bool          // something came in
	toDrop  int           // packets that the firewall still loses

	// allowed holds the remotes that the filter lets in, and until when. Nil
	// under endpoint-independent filtering.
	allowed map[netip.AddrPort]time.Duration
	prune   int // length of allowed at which to look for dead entries

	prev, next *mapping // in the order of last
}

// A mappingKey is what selects a mapping for an outbound packet. Which parts of
// the remote are set depends on the NAT's mapping behavior.
type mappingKey struct {
	inside netip.AddrPort
	remote netip.AddrPort
}

// A translator is the state of one NAT.
type translator struct {
	cfg       NAT
	rng       *rand.Rand
	addresses []netip.Addr // outside; the first is the node's own
	byKey     map[mappingKey]*mapping
	byOutside map[netip.AddrPort]*mapping
	insiders  map[netip.Addr]*insider
	pools     map[poolKey]*pool
	// Sentinels of lists whose front was refreshed longest ago.
	idle      mapping // with Lifetime
	unreplied mapping // with Unreplied
	expired   uint64
	remapped  uint64
	gate      gate // of the firewall
}

// An insider is what the NAT knows of one inside address, until it reboots.
type insider struct {
	address  int // index of its outside address, with paired pooling
	block    int
	mappings int
}

// Outside ports that a NAT picks by itself unless told; RFC 4787, section
// 4.2.1 leaves the well-known ones to those who ask for them.
const (
	firstPort = 1024
	lastPort  = 65535
)

// ports returns the range of outside ports.
func (n NAT) ports() (first, last uint16) {
	first, last = n.FirstPort, n.LastPort
	if first == 0 {
		first = firstPort
	}
	if last == 0 {
		last = lastPort
	}
	return first, last
}

// newTranslator returns the state of a NAT with the outside addresses of its
// node, of which there is at least one.
func newTranslator(cfg NAT, addresses []netip.Addr, rng *rand.Rand) *translator {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 2 * time.Minute
	}
	if cfg.Unreplied == 0 {
		cfg.Unreplied = cfg.Lifetime
	}
	if cfg.Delta == 0 {
		cfg.Delta = 1
	}
	t := &translator{cfg: cfg, addresses: addresses, rng: rng}
	t.reboot()
	return t
}

// reboot forgets every mapping. What it forgets does not count as expired.
func (t *translator) reboot() {
	t.byKey = make(map[mappingKey]*mapping)
	t.byOutside = make(map[netip.AddrPort]*mapping)
	t.insiders = make(map[netip.Addr]*insider)
	t.pools = make(map[poolKey]*pool)
	t.idle.prev, t.idle.next = &t.idle, &t.idle
	t.unreplied.prev, t.unreplied.next = &t.unreplied, &t.unreplied
}

// part returns what of remote a table indexed by behavior b looks at.
func (b Behavior) part(remote netip.AddrPort) netip.AddrPort {
	switch b {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

// outbound returns the outside address and port for a packet from inside to
// remote, and makes the mapping if there is none. If it reports false, the
// packet ends for the cause.
func (t *translator) outbound(now time.Duration, inside, remote netip.AddrPort) (outside netip.AddrPort, cause DropCause, ok bool) {
	t.expire(now)
	key := mappingKey{inside, t.cfg.Mapping.part(remote)}
	m := t.byKey[key]
	switch {
	case m == nil:
		if m, cause = t.add(now, key, inside); m == nil {
			return netip.AddrPort{}, cause, false
		}
		t.refreshed(m, now)
	case !t.cfg.NoOutboundRefresh:
		m.unlink()
		t.refreshed(m, now)
	}
	if m.allowed != nil {
		t.allow(m, now, t.cfg.Filtering.part(remote))
	}
	if m.toDrop > 0 {
		m.toDrop--
		return netip.AddrPort{}, DropFirst, false
	}
	return m.outside, 0, true
}

// add makes a mapping, which is in no list yet. It returns nil and the cause
// if the NAT has no room.
func (t *translator) add(now time.Duration, key mappingKey, inside netip.AddrPort) (*mapping, DropCause) {
	who := t.insiders[inside.Addr()]
	if who == nil {
		who = t.newInsider()
		t.insiders[inside.Addr()] = who
	}
	if t.cfg.Sessions > 0 && who.mappings >= t.cfg.Sessions {
		oldest := t.oldest(inside.Addr())
		if !t.cfg.EvictOldest || oldest == nil {
			return nil, DropSessions
		}
		t.remove(oldest)
	}
	outside, from, ok := t.allocate(now, who, inside.Port())
	if !ok {
		return nil, DropNoPort
	}
	m := &mapping{key: key, inside: inside, outside: outside, pool: from}
	if t.cfg.Filtering != EndpointIndependent {
		m.allowed = make(map[netip.AddrPort]time.Duration, 1)
		m.prune = 64
	}
	if f := t.cfg.Firewall; f != nil {
		m.toDrop = f.DropFirst
	}
	t.byKey[key] = m
	t.byOutside[outside] = m
	who.mappings++
	return m, 0
}

// oldest returns the mapping of an inside address that was refreshed longest
// ago, nil if it has none.
func (t *translator) oldest(inside netip.Addr) *mapping {
	var found *mapping
	for _, list := range []*mapping{&t.unreplied, &t.idle} {
		for m := list.next; m != list; m = m.next {
			if m.inside.Addr() == inside {
				if found == nil || m.last < found.last {
					found = m
				}
				break
			}
		}
	}
	return found
}

// remove ends a mapping.
func (t *translator) remove(m *mapping) {
	m.unlink()
	delete(t.byKey, m.key)
	delete(t.byOutside, m.outside)
	m.pool.free()
	t.insiders[m.inside.Addr()].mappings--
}

// inbound returns who inside gets a packet that came to an outside address.
func (t *translator) inbound(now time.Duration, outside, remote netip.AddrPort) (inside netip.AddrPort, cause DropCause, ok bool) {
	t.expire(now)
	m := t.byOutside[outside]
	if m == nil {
		return netip.AddrPort{}, DropNoMapping, false
	}
	if m.allowed != nil {
		part := t.cfg.Filtering.part(remote)
		until, known := m.allowed[part]
		if !known || until <= now {
			return netip.AddrPort{}, DropFiltered, false
		}
		if t.cfg.InboundRefresh {
			t.allow(m, now, part)
		}
	}
	first := !m.replied && t.cfg.Unreplied != t.cfg.Lifetime
	if t.cfg.InboundRefresh || first {
		m.unlink()
		m.replied = true
		t.refreshed(m, now)
	}
	m.replied = true
	return m.inside, 0, true
}

// quoted returns the insider whose packet an ICMP message about outside quotes.
// It changes no state (RFC 5508, section 4.3).
func (t *translator) quoted(now time.Duration, outside netip.AddrPort) (netip.AddrPort, bool) {
	t.expire(now)
	if m := t.byOutside[outside]; m != nil {
		return m.inside, true
	}
	return netip.AddrPort{}, false
}

// remap moves every mapping to another outside port of its pool. What comes to
// the old one finds no mapping. It returns how many moved.
func (t *translator) remap(now time.Duration) int {
	t.expire(now)
	moved := 0
	for _, list := range []*mapping{&t.unreplied, &t.idle} {
		for m := list.next; m != list; m = m.next {
			if m.pool == nil {
				continue
			}
			// The old port stays taken until the new one is found, which is
			// therefore another.
			port, ok := t.random(m.pool)
			if !ok {
				continue
			}
			delete(t.byOutside, m.outside)
			m.outside = netip.AddrPortFrom(m.outside.Addr(), port)
			t.byOutside[m.outside] = m
			moved++
		}
	}
	t.remapped += uint64(moved)
	return moved
}

// allow lets remote in for a lifetime.
func (t *translator) allow(m *mapping, now time.Duration, remote netip.AddrPort) {
	if t.cfg.Lifetime < 0 {
		m.allowed[remote] = forever
		return
	}
	m.allowed[remote] = now + t.cfg.Lifetime
	if len(m.allowed) < m.prune {
		return
	}
	for r, until := range m.allowed {
		if until <= now {
			delete(m.allowed, r)
		}
	}
	m.prune = max(64, 2*len(m.allowed))
}

const forever = time.Duration(1<<63 - 1)

func (m *mapping) unlink() {
	m.prev.next, m.next.prev = m.next, m.prev
}

// refreshed puts m, which is in no list, where the latest are.
func (t *translator) refreshed(m *mapping, now time.Duration) {
	list := &t.idle
	if !m.replied && t.cfg.Unreplied != t.cfg.Lifetime {
		list = &t.unreplied
	}
	m.last = now
	m.prev, m.next = list.prev, list
	m.prev.next, m.next.prev = m, m
}

// expire removes the mappings that have been idle for a lifetime.
func (t *translator) expire(now time.Duration) {
	expire := func(list *mapping, life time.Duration) {
		for m := list.next; life >= 0 && m != list && m.last+life <= now; m = list.next {
			t.remove(m)
			t.expired++
		}
	}
	expire(&t.idle, t.cfg.Lifetime)
	expire(&t.unreplied, t.cfg.Unreplied)
}
