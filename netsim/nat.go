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
	outside uint16
	last    time.Duration // when traffic last refreshed it

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
	cfg      NAT
	rng      *rand.Rand
	byKey    map[mappingKey]*mapping
	byPort   map[uint16]*mapping
	idle     mapping // sentinel of the list whose front was refreshed longest ago
	nextPort uint16  // of sequential allocation
	taken    int     // outside ports from firstPort on
	expired  uint64
}

// Outside ports that a NAT picks by itself; RFC 4787, section 4.2.1 leaves the
// well-known ones to those who ask for them.
const (
	firstPort = 1024
	lastPort  = 65535
	portCount = lastPort - firstPort + 1
)

func newTranslator(cfg NAT, rng *rand.Rand) *translator {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 2 * time.Minute
	}
	t := &translator{cfg: cfg, rng: rng}
	t.reboot()
	return t
}

// reboot forgets every mapping. What it forgets does not count as expired.
func (t *translator) reboot() {
	t.byKey = make(map[mappingKey]*mapping)
	t.byPort = make(map[uint16]*mapping)
	t.taken = 0
	t.idle.prev, t.idle.next = &t.idle, &t.idle
	if t.cfg.Allocation == Sequential {
		t.nextPort = firstPort + uint16(t.rng.IntN(portCount))
	}
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

// outbound returns the outside port for a packet from inside to remote, and
// makes the mapping if there is none. It reports false if no port is left.
func (t *translator) outbound(now time.Duration, inside, remote netip.AddrPort) (uint16, bool) {
	t.expire(now)
	key := mappingKey{inside, t.cfg.Mapping.part(remote)}
	m := t.byKey[key]
	if m == nil {
		port, ok := t.allocate(inside.Port())
		if !ok {
			return 0, false
		}
		m = &mapping{key: key, inside: inside, outside: port}
		if t.cfg.Filtering != EndpointIndependent {
			m.allowed = make(map[netip.AddrPort]time.Duration, 1)
			m.prune = 64
		}
		t.byKey[key] = m
		t.byPort[port] = m
		if port >= firstPort {
			t.taken++
		}
	} else {
		m.unlink()
	}
	t.refreshed(m, now)
	if m.allowed != nil {
		t.allow(m, now, t.cfg.Filtering.part(remote))
	}
	return m.outside, true
}

// inbound returns who inside gets a packet that came to an outside port.
func (t *translator) inbound(now time.Duration, port uint16, remote netip.AddrPort) (inside netip.AddrPort, cause DropCause, ok bool) {
	t.expire(now)
	m := t.byPort[port]
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
	if t.cfg.InboundRefresh {
		m.unlink()
		t.refreshed(m, now)
	}
	return m.inside, 0, true
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
	m.last = now
	m.prev, m.next = t.idle.prev, &t.idle
	m.prev.next, m.next.prev = m, m
}

// expire removes the mappings that have been idle for a lifetime.
func (t *translator) expire(now time.Duration) {
	if t.cfg.Lifetime < 0 {
		return
	}
	for m := t.idle.next; m != &t.idle && m.last+t.cfg.Lifetime <= now; m = t.idle.next {
		m.unlink()
		delete(t.byKey, m.key)
		delete(t.byPort, m.outside)
		if m.outside >= firstPort {
			t.taken--
		}
		t.expired++
	}
}

// allocate picks a free outside port (RFC 4787, section 4.2).
func (t *translator) allocate(inside uint16) (uint16, bool) {
	if t.cfg.Allocation == Preserving && t.byPort[inside] == nil {
		return inside, true
	}
	if t.taken == portCount {
		return 0, false
	}
	next := t.nextPort
	if t.cfg.Allocation != Sequential {
		next = firstPort + uint16(t.rng.IntN(portCount))
		for tries := 0; tries < 16 && t.byPort[next] != nil; tries++ {
			next = firstPort + uint16(t.rng.IntN(portCount))
		}
	}
	for {
		port := next
		if next++; next < firstPort {
			next = firstPort
		}
		if t.byPort[port] == nil {
			t.nextPort = next
			return port, true
		}
	}
}
