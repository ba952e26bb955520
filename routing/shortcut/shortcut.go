// Package shortcut decides which peers deserve a session of their own.
//
// Messages to a far key cross several nodes. A [Policy] watches that traffic
// and asks for a direct session with those to whom most of it goes, as the
// Floc protocol of P2P-DVM does; traffic that stops gives its session back.
// The number of sessions stays below a cap, since home NATs keep few mappings,
// and a newcomer must be worth twice as much as whom it replaces, so that two
// peers of about the same worth do not take turns.
//
// The worth of a peer is its recent messages, times the time that a direct
// session saves each, plus its recent bytes, times the hops that they save.
// Recent means that half of it is forgotten every [Config.HalfLife].
//
// The policy is a state machine that one goroutine owns: [Policy.Sent] and the
// time go in, [Config.Connect] and [Config.Close] come out. Whoever makes the
// sessions reports what became of them ([Policy.Connected], [Policy.Closed]).
package shortcut

import (
	"errors"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// A Config says how a policy behaves. Zero values after Close mean the
// defaults.
type Config struct {
	// Connect asks for a direct session with peer. Required. It must not call
	// the policy before it returns.
	Connect func(now time.Time, peer routing.PeerID)

	// Close says that the session with peer is no longer worth its place.
	// Required. It must not call the policy before it returns.
	Close func(now time.Time, peer routing.PeerID)

	// Cap bounds sessions, those being made included. Zero means [Cap] of
	// Nodes.
	Cap int

	// Nodes is about how many nodes the grid has, for the default of Cap. Zero
	// means 1024.
	Nodes int

	// HalfLife is the time in which half of what was counted is forgotten.
	// Zero means 5 s.
	HalfLife time.Duration

	// Threshold is the worth from which on a peer gets a session while there
	// is room: 1 is one message each second that saves a second, or 64 KiB
	// each second that save a hop. Zero means 0.04: one message each second
	// that saves 40 ms. It loses the session at half of that.
	Threshold float64

	// Hysteresis is how many times the worth of the least worthy a newcomer
	// must have to replace it. Zero means 2.
	Hysteresis float64

	// MinAge is for how long a session is kept whatever its worth. Zero means
	// 10 s.
	MinAge time.Duration

	// Retry is how long a peer that could not be reached is left alone. Zero
	// means 30 s, twice that after the second failure and so on up to 16
	// times.
	Retry time.Duration
}

// Cap returns how many shortcuts a node of a grid of n nodes keeps at most:
// 16 + 2 log2 n.
func Cap(n int) int { return 16 + 2*bits.Len(uint(max(n, 1)-1)) }

// A state is how far a peer has got.
type state uint8

const (
	watched    state = iota // counted
	connecting              // Connect was called
	connected
)

// A peer is one to which messages went lately.
type peer struct {
	id       routing.PeerID
	state    state
	since    time.Time // of the state
	hinted   time.Time // until when a hint stands in for traffic
	failures uint
	retryAt  time.Time

	sent     time.Time // when the last message went
	at       time.Time // when the counts were brought up to date
	messages float64   // decayed
	bytes    float64   // decayed, times the hops that they crossed
	saves    float64   // seconds for each message, smoothed
}

// A Policy decides about shortcuts. One goroutine owns it.
type Policy struct {
	cfg   Config
	peers map[routing.PeerID]*peer
	order []*peer // in the order of their first message
	open  int     // connecting or connected

	reviewAt time.Time

	counters Counters
}

// Counters count what a policy did since it was made.
type Counters struct {
	Opened    uint64 `json:"opened"`    // calls of Connect
	Failed    uint64 `json:"failed"`    // of those, without success
	Closed    uint64 `json:"closed"`    // calls of Close
	Replaced  uint64 `json:"replaced"`  // of those, for a newcomer
	Forgotten uint64 `json:"forgotten"` // peers forgotten for want of room
}

// watchedPerSession is how many peers are counted for each session allowed. A
// guess: three out of four may be passers-by.
const watchedPerSession = 4

// reviewEvery is how often what has lost its worth is looked for.
const reviewEvery = time.Second

// New returns a policy without sessions. The error says what cfg lacks.
func New(cfg Config) (*Policy, error) {
	if cfg.Connect == nil || cfg.Close == nil {
		return nil, errors.New("shortcut: Config.Connect and Close are required")
	}
	def(&cfg.Nodes, 1024)
	def(&cfg.Cap, Cap(cfg.Nodes))
	def(&cfg.HalfLife, 5*time.Second)
	def(&cfg.Threshold, 0.04)
	def(&cfg.Hysteresis, 2)
	def(&cfg.MinAge, 10*time.Second)
	def(&cfg.Retry, 30*time.Second)
	return &Policy{cfg: cfg, peers: make(map[routing.PeerID]*peer)}, nil
}

// def sets *v to the default d when it is zero.
func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Counters returns what was counted so far.
func (p *Policy) Counters() Counters { return p.counters }

// Cap returns how many sessions there may be at most.
func (p *Policy) Cap() int { return p.cfg.Cap }

// Open returns the number of sessions, those being made included.
func (p *Policy) Open() int { return p.open }

// Has reports whether there is a session with id.
func (p *Policy) Has(id routing.PeerID) bool {
	q := p.peers[id]
	return q != nil && q.state == connected
}

// Sent counts a message of that many bytes to id. hops is how many nodes it
// crosses by way of the overlay, at least 1; saves is the time that a direct
// session is thought to save it. Both are what the overlay would cost, also
// when the message took a shortcut.
func (p *Policy) Sent(now time.Time, id routing.PeerID, bytes, hops int, saves time.Duration) {
	q := p.know(now, id)
	if q == nil {
		return
	}
	p.decay(now, q)
	q.sent = now
	q.messages++
	q.bytes += float64(bytes) * float64(max(hops-1, 0))
	q.saves += (saves.Seconds() - q.saves) / min(q.messages, 8)
	p.consider(now, q)
}

// Hint says that each of ids will soon be sent much: the neighbours in a
// collective operation. It stands for the traffic of 10 s, until there is
// some. Hints beyond the cap change nothing.
func (p *Policy) Hint(now time.Time, ids []routing.PeerID) {
	for _, id := range ids {
		if q := p.know(now, id); q != nil {
			q.hinted = now.Add(10 * time.Second)
			p.consider(now, q)
		}
	}
}

// know returns the peer id, which may be new, or nil when there is no room.
func (p *Policy) know(now time.Time, id routing.PeerID) *peer {
	if q := p.peers[id]; q != nil {
		return q
	}
	if len(p.order) >= watchedPerSession*p.cfg.Cap && !p.forget(now) {
		return nil
	}
	q := &peer{id: id, at: now, sent: now, since: now}
	p.peers[id] = q
	p.order = append(p.order, q)
	if p.reviewAt.IsZero() {
		p.reviewAt = now.Add(reviewEvery)
	}
	return q
}

// forget makes room by forgetting whoever is worth least, has no session and
// was sent nothing for a while: where more peers are busy than can be counted,
// those counted stay, or nobody would ever earn a session.
func (p *Policy) forget(now time.Time) bool {
	var least *peer
	for _, q := range p.order {
		if q.state == watched && !now.Before(q.retryAt) && now.Sub(q.sent) > p.cfg.HalfLife/4 && (least == nil || p.worth(now, q) < p.worth(now, least)) {
			least = q
		}
	}
	if least == nil {
		return false
	}
	p.counters.Forgotten++
	p.drop(least)
	return true
}

func (p *Policy) drop(q *peer) {
	delete(p.peers, q.id)
	p.order = slices.DeleteFunc(p.order, func(o *peer) bool { return o == q })
}

// decay forgets what is old.
func (p *Policy) decay(now time.Time, q *peer) {
	if now.After(q.at) {
		f := math.Exp2(-now.Sub(q.at).Seconds() / p.cfg.HalfLife.Seconds())
		q.messages *= f
		q.bytes *= f
		q.at = now
	}
}

// bytesPerMessage is how many bytes across a hop weigh as much as one message
// that saves a second: a guess that lets bulk count without drowning latency.
const bytesPerMessage = 64 << 10

// worth returns what a session with q is worth at now.
func (p *Policy) worth(now time.Time, q *peer) float64 {
	p.decay(now, q)
	// What is remembered of a steady rate r is r times halfLife / ln 2.
	perSecond := math.Ln2 / p.cfg.HalfLife.Seconds()
	w := q.messages*perSecond*q.saves + q.bytes*perSecond/bytesPerMessage
	if now.Before(q.hinted) {
		w = max(w, p.cfg.Threshold)
	}
	return w
}

// consider opens a session with q if it has earned one.
func (p *Policy) consider(now time.Time, q *peer) {
	if q.state != watched || now.Before(q.retryAt) {
		return
	}
	w := p.worth(now, q)
	if w < p.cfg.Threshold {
		return
	}
	if p.open >= p.cfg.Cap {
		least := p.least(now)
		if least == nil || w < p.cfg.Hysteresis*p.worth(now, least) {
			return
		}
		p.counters.Replaced++
		p.close(now, least)
	}
	q.state, q.since = connecting, now
	p.open++
	p.counters.Opened++
	p.cfg.Connect(now, q.id)
}

// least returns the session that is worth least, of those old enough.
func (p *Policy) least(now time.Time) (least *peer) {
	for _, q := range p.order {
		if q.state == connected && now.Sub(q.since) >= p.cfg.MinAge && (least == nil || p.worth(now, q) < p.worth(now, least)) {
			least = q
		}
	}
	return least
}

func (p *Policy) close(now time.Time, q *peer) {
	q.state, q.since = watched, now
	p.open--
	p.counters.Closed++
	p.cfg.Close(now, q.id)
}

// Connected says that there is a session with id by now. A session that
// nobody asked for does not count.
func (p *Policy) Connected(now time.Time, id routing.PeerID) {
	if q := p.peers[id]; q != nil && q.state == connecting {
		q.state, q.since, q.failures = connected, now, 0
	}
}

// Closed says that the session with id could not be made, or has ended. The
// peer is left alone for a while.
func (p *Policy) Closed(now time.Time, id routing.PeerID) {
	q := p.peers[id]
	if q == nil || q.state == watched {
		return
	}
	if q.state == connecting {
		p.counters.Failed++
		q.retryAt = now.Add(p.cfg.Retry << min(q.failures, 4))
		q.failures++
	}
	q.state, q.since = watched, now
	p.open--
}

// Deadline returns when Advance must be called next, or zero for never.
func (p *Policy) Deadline() time.Time { return p.reviewAt }

// Advance closes the sessions that have lost their worth, and forgets peers to
// which nothing is sent any more.
func (p *Policy) Advance(now time.Time) {
	if p.reviewAt.IsZero() || now.Before(p.reviewAt) {
		return
	}
	for _, q := range slices.Clone(p.order) {
		w := p.worth(now, q)
		switch {
		case q.state == connected && w < p.cfg.Threshold/2 && now.Sub(q.since) >= p.cfg.MinAge:
			p.close(now, q)
		case q.state == watched && w < p.cfg.Threshold/100 && !now.Before(q.retryAt):
			p.drop(q)
		}
	}
	if p.reviewAt = now.Add(reviewEvery); len(p.order) == 0 {
		p.reviewAt = time.Time{}
	}
}
