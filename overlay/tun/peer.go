package tun

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
)

const (
	// maxWaiting bounds the packets to one peer that wait for a session.
	maxWaiting      = 64
	maxWaitingBytes = 128 << 10
	// maxDials bounds the peers that are dialed at once because of packets.
	maxDials = 64
	// dialPause is how long packets to a peer that cannot be reached are
	// answered without trying again.
	dialPause = 2 * time.Second
	dialTime  = 30 * time.Second
	// sessionCheck is how long a session is used before it is looked for
	// again: there may be a better one.
	sessionCheck = time.Second
	// peerLife is how long a peer without flows is remembered.
	peerLife = 10 * time.Minute
)

// A peer is a member that packets are exchanged with.
type peer struct {
	member  overlay.IPMember
	flows   flowTable
	parts   assembler
	partID  atomic.Uint32
	checked atomic.Int64 // when it was last known to be a member, in ns of the Unix epoch
	current atomic.Pointer[chosen]

	mu       sync.Mutex // guards what follows
	waiting  [][]byte   // with sendRoom in front
	bytes    int        // of these
	dialing  bool
	failedAt time.Time
}

// chosen is a session and when it was chosen.
type chosen struct {
	carrier
	at time.Time
}

// idle reports whether nobody has looked at p for long. Flows are another
// matter.
func (p *peer) idle(now time.Time) bool {
	return now.Sub(time.Unix(0, p.checked.Load())) >= peerLife
}

// carrier returns a session that packets to p may use now, nil if there is
// none.
func (i *Interface) carrier(p *peer, now time.Time) carrier {
	c := p.current.Load()
	if c != nil && now.Sub(c.at) < sessionCheck && c.Usable() {
		return c.carrier
	}
	s, ok := i.node.session(p.member.Peer)
	if !ok || !s.Usable() {
		p.current.Store(nil)
		return nil
	}
	p.current.Store(&chosen{s, now})
	return s
}

// wait keeps packets, each with sendRoom in front, until there is a session,
// which it makes. What has no room, and what cannot be sent in the end, is
// answered as unreachable.
func (i *Interface) wait(p *peer, now time.Time, packets [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dial := !p.dialing && now.Sub(p.failedAt) >= dialPause
	if dial {
		if i.counters.dialing.Add(1) > maxDials {
			i.counters.dialing.Add(-1)
			dial = false
		}
	}
	if !dial && !p.dialing {
		i.counters.unreachable.Add(uint64(len(packets)))
		for _, b := range packets {
			i.answer(b[sendRoom:], hostUnreachable, 0)
		}
		return
	}
	for _, b := range packets {
		if len(p.waiting) >= maxWaiting || p.bytes+len(b) > maxWaitingBytes {
			i.counters.waitingFull.Add(1)
			continue
		}
		p.waiting = append(p.waiting, append([]byte(nil), b...))
		p.bytes += len(b)
	}
	if !dial {
		return
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.closed {
		i.counters.dialing.Add(-1)
		return
	}
	p.dialing = true
	i.running.Go(func() { i.dial(p) })
}

// dial makes a session with p and sends what waits for it.
func (i *Interface) dial(p *peer) {
	defer i.counters.dialing.Add(-1)
	ctx, cancel := context.WithTimeout(i.ctx, dialTime)
	defer cancel()
	err := i.node.connect(ctx, p.member.Peer)
	now := time.Now()
	var c carrier
	if err == nil {
		if c = i.carrier(p, now); c == nil {
			err = errNoSession
		}
	}
	p.mu.Lock()
	waiting := p.waiting
	p.waiting, p.bytes, p.dialing = nil, 0, false
	if err != nil {
		p.failedAt = now
	}
	p.mu.Unlock()
	if err == nil {
		out := newSender(i)
		for _, b := range waiting {
			out.send(now, p, c, b)
		}
		return
	}
	i.log.Debug("packets not sent", "peer", p.member.Peer.Short(), "packets", len(waiting), "err", err)
	i.counters.unreachable.Add(uint64(len(waiting)))
	for _, b := range waiting {
		i.answer(b[sendRoom:], hostUnreachable, 0)
	}
}

var errNoSession = errors.New("tun: the session does not carry packets now")
