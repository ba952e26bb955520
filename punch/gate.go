package punch

import (
	"net/netip"
	"sync"

	"github.com/pion/stun/v4"
)

const (
	// maxPeerReflexive bounds the addresses that one attempt learns from
	// requests; two sides that map by address and port would make new ones
	// without end.
	maxPeerReflexive = 16
	// maxPrivate and privateTries limit what a peer can make us send into our
	// own network.
	maxPrivate   = 4
	privateTries = 5
)

// A Stage says how sure it is that a remote transport address works.
type Stage uint8

const (
	// Heard: an authenticated check arrived from an address that the peer had
	// named. What we send back most likely arrives too.
	Heard Stage = iota + 1
	// Valid: one of our checks was answered from where it was sent to
	// (RFC 8445, section 7.2.5.3).
	Valid
	// Selected: both sides agreed on this pair.
	Selected
)

// String returns a lower-case word.
func (s Stage) String() string {
	switch s {
	case Heard:
		return "heard"
	case Valid:
		return "valid"
	case Selected:
		return "selected"
	default:
		return "none"
	}
}

// A remoteState is what an attempt knows of one remote transport address.
type remoteState struct {
	signalled bool
	private   bool
	checks    int // sent to a private address
	stage     Stage
}

// An attemptGate is the gate of one attempt: it checks integrity, filters
// addresses, bounds their number, and reports the first signs of a working
// pair. It has no unauthenticated state: only messages under the attempt's
// passwords change it.
type attemptGate struct {
	filter   *Filter
	localPwd string
	report   func(remote netip.AddrPort, s Stage) // must not block

	mu            sync.Mutex
	paused        bool   // no checks leave: a search has the budget
	remotePwd     string // empty until the peer's description came
	sameOutside   bool
	remotes       map[netip.AddrPort]*remoteState
	peerReflexive int
	private       int
}

// learn takes over the peer's description and returns the candidates that may
// be checked.
func (g *attemptGate) learn(d Description, sameOutside bool, local netip.AddrPort) []Candidate {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remotePwd = d.Pwd
	g.sameOutside = sameOutside
	var list []Candidate
	for _, c := range d.Candidates {
		c.Addr = netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
		if c.Addr == local {
			continue
		}
		if r := g.remotes[c.Addr]; r != nil && r.signalled {
			continue
		}
		r := g.enter(c.Addr)
		if r == nil {
			continue
		}
		r.signalled = true
		list = append(list, c)
	}
	return list
}

// enter returns the state of an address that passes the filter, or nil.
func (g *attemptGate) enter(a netip.AddrPort) *remoteState {
	if r := g.remotes[a]; r != nil {
		return r
	}
	private, err := g.filter.Check(a, g.sameOutside)
	if err != nil || private && g.private == maxPrivate {
		return nil
	}
	if private {
		g.private++
	}
	r := &remoteState{private: private}
	g.remotes[a] = r
	return r
}

// admit implements gate.
func (g *attemptGate) admit(h stunHeader, b []byte, from netip.AddrPort) bool {
	g.mu.Lock()
	pwd := g.localPwd
	if h.class != classRequest {
		pwd = g.remotePwd
	}
	g.mu.Unlock()
	if pwd == "" {
		return false
	}
	m, err := decodeSTUN(b)
	if err != nil || stun.MessageIntegrity(pwd).Check(m) != nil {
		return false
	}
	admitted, sign := g.note(h.class, from)
	if sign != 0 {
		g.report(from, sign)
	}
	return admitted
}

// note enters an authenticated message and returns the stage it newly reaches.
func (g *attemptGate) note(class stunClass, from netip.AddrPort) (admitted bool, reached Stage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.remotes[from]
	switch class {
	case classRequest:
		if r == nil {
			if g.peerReflexive == maxPeerReflexive {
				return false, 0
			}
			if r = g.enter(from); r == nil {
				return false, 0
			}
			g.peerReflexive++
		}
		if r.signalled && r.stage < Heard {
			r.stage = Heard
			return true, Heard
		}
	case classSuccess:
		if r == nil {
			return false, 0
		}
		if r.stage < Valid {
			r.stage = Valid
			return true, Valid
		}
	}
	return r != nil, 0
}

// pause stops the checks, or lets them go on.
func (g *attemptGate) pause(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused = on
}

// mayCheck implements gate.
func (g *attemptGate) mayCheck(to netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.remotes[to]
	if r == nil || g.paused {
		return false
	}
	if r.private && r.stage < Heard {
		if r.checks == privateTries {
			return false
		}
		r.checks++
	}
	return true
}
