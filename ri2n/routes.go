package ri2n

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A route leads from a connection ID of ours to the session and path that it
// was derived for (docs/wire-format.md, connection IDs).
type route struct {
	session *Session
	path    pathID
	largest atomic.Uint64 // largest packet number authenticated so far
}

// routeTable finds the owner of a datagram by connection ID, never by source
// address. Its mutex is a leaf: it is taken under a session's, never above.
type routeTable struct {
	mu     sync.RWMutex
	short  map[connID]*route
	long   map[connID]*handshake
	resets map[[16]byte]*Session // stateless reset tokens that peers gave us
}

func (t *routeTable) init() {
	t.short = make(map[connID]*route)
	t.long = make(map[connID]*handshake)
	t.resets = make(map[[16]byte]*Session)
}

func (t *routeTable) findShort(id connID) *route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.short[id]
}

func (t *routeTable) findLong(id connID) *handshake {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.long[id]
}

// addShort registers r and reports false if another session has the ID.
func (t *routeTable) addShort(id connID, r *route) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.short[id]; taken {
		return false
	}
	t.short[id] = r
	return true
}

// addFirstRoutes registers the connection IDs of the handshake's path and of
// those that the peer may open, all at once.
func (s *Session) addFirstRoutes() {
	ids := s.localIDs.open()
	routes := make([]route, 0, 1+(initialMaxPathID+1)/2)
	t := &s.endpoint.routes
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range pathID(initialMaxPathID + 1) {
		if id != 0 && s.ours(id) {
			continue
		}
		cid := ids.cid(id, 0)
		if _, taken := t.short[cid]; taken {
			continue
		}
		routes = append(routes, route{session: s, path: id})
		t.short[cid] = &routes[len(routes)-1]
	}
}

func (t *routeTable) removeShort(id connID, s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.short[id]; r != nil && r.session == s {
		delete(t.short, id)
	}
}

func (t *routeTable) addLong(id connID, h *handshake) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.long[id]; taken {
		return false
	}
	t.long[id] = h
	return true
}

func (t *routeTable) removeLong(id connID, h *handshake) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.long[id] == h {
		delete(t.long, id)
	}
}

func (t *routeTable) handshakes() []*handshake {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]*handshake, 0, len(t.long))
	for _, h := range t.long {
		all = append(all, h)
	}
	return all
}

func (t *routeTable) addReset(token [16]byte, s *Session) {
	t.mu.Lock()
	t.resets[token] = s
	t.mu.Unlock()
}

func (t *routeTable) removeReset(token [16]byte, s *Session) {
	t.mu.Lock()
	if t.resets[token] == s {
		delete(t.resets, token)
	}
	t.mu.Unlock()
}

// findReset returns the session whose peer has forgotten it, if the last 16
// bytes of b are one of its tokens.
func (t *routeTable) findReset(b []byte) *Session {
	if len(b) < shortHeaderLen+16 {
		return nil
	}
	token := [16]byte(b[len(b)-16:])
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.resets[token]
}

// resetLimiter allows five stateless resets a second to each /24 or /56.
type resetLimiter struct {
	second int64
	sent   map[netip.Prefix]int
}

const (
	maxResetsPerSecond  = 5
	maxResetLimiterSize = 1024
)

// allow is called with the endpoint's mutex held.
func (r *resetLimiter) allow(now time.Time, to netip.Addr) bool {
	if second := now.Unix(); second != r.second || r.sent == nil {
		r.second = second
		r.sent = make(map[netip.Prefix]int)
	}
	prefix := limitPrefix(to)
	n := r.sent[prefix]
	if n >= maxResetsPerSecond || n == 0 && len(r.sent) >= maxResetLimiterSize {
		return false
	}
	r.sent[prefix] = n + 1
	return true
}

// limitPrefix is the unit that one subscriber is taken to own: /24 in IPv4,
// /56 in IPv6.
func limitPrefix(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() && !a.Is4In6() {
		bits = 56
	}
	p, err := a.Unmap().Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
