package server

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
)

const (
	// asksPerSecond is how often one agent may ask the ledger, after a burst
	// of asksBurst: enough for all pages of a large grid.
	asksPerSecond = 10
	asksBurst     = 64
	// strangerAsks is how many questions somebody unknown has: a few names to
	// join under.
	strangerAsks = 16
	// maxUnderWay bounds the bytes of questions whose last part has not come.
	maxUnderWay = 16 << 20
	// drainTime is how long an agent may take to read answers before it gets
	// the next one, and outboxRoom how many messages may wait then.
	drainTime  = 10 * time.Second
	outboxRoom = 64
	// refreshTime is the pause between two looks at what other servers have
	// changed in the ledger's store.
	refreshTime = 2 * time.Second
)

// askCounters are the server's.
type askCounters struct {
	done, refused atomic.Uint64
	underWay      atomic.Int64 // bytes
}

// An asking is what one session's questions need.
type asking struct {
	collector protocol.Collector
	limiter   *rate.Limiter
	asked     int
}

func newAsking() asking { return asking{limiter: rate.NewLimiter(asksPerSecond, asksBurst)} }

// stopAsking gives back what a session still held.
func (s *Server) stopAsking(q *asking) { s.asks.underWay.Add(-int64(q.collector.Size())) }

// ask takes one part of a question, and answers it after its last. It runs on
// the session's reader, so that an agent has one question at a time before the
// ledger. The error ends the session.
func (s *Server) ask(ctx context.Context, a *agent, q *asking, m protocol.Ask) error {
	s.mu.Lock()
	role, gone := a.role, a.gone
	s.mu.Unlock()
	if gone {
		return nil
	}
	limit := membership.MaxSmallRequest
	if role == roleMember {
		limit = membership.MaxRequest
	}
	before := q.collector.Size()
	whole, done, err := q.collector.Add(m.Request, m.More, m.Data, limit)
	held := s.asks.underWay.Add(int64(q.collector.Size() - before))
	switch {
	case err != nil:
		return err
	case !done && held > maxUnderWay:
		s.asks.refused.Add(1)
		return s.endBusy(a)
	case !done:
		return nil
	}
	q.asked++
	var answer []byte
	if role == roleStranger && q.asked > strangerAsks || !q.limiter.Allow() {
		s.asks.refused.Add(1)
		answer = membership.AppendFailure(nil, &membership.Error{Problem: membership.TooMany, What: "the rendezvous", Detail: "too many questions; try again in a moment"})
	} else {
		s.asks.done.Add(1)
		answer = s.ledger.Answer(ctx, time.Now(), a.peer, whole)
	}
	if !s.drained(ctx, a) {
		s.asks.refused.Add(1)
		return s.endBusy(a)
	}
	s.mu.Lock()
	s.table.promote(time.Now(), a) // it may have joined
	for _, part := range protocol.Answers(m.Request, answer) {
		s.table.send(a, part)
	}
	s.unlock()
	return nil
}

func (s *Server) endBusy(a *agent) error {
	s.mu.Lock()
	s.table.end(time.Now(), a, protocol.ReasonBusy)
	s.unlock()
	return nil
}

// drained waits until the agent has read most of what was sent to it.
func (s *Server) drained(ctx context.Context, a *agent) bool {
	for end := time.Now().Add(drainTime); ; {
		s.mu.Lock()
		room := len(a.outbox) <= outboxRoom
		s.mu.Unlock()
		if room {
			return true
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// refreshLedger learns of what other servers have changed.
func (s *Server) refreshLedger(ctx context.Context) {
	ticker := time.NewTicker(refreshTime)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := s.ledger.Refresh(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Error("the ledger's store does not answer; what is known holds", "err", err)
		}
		failing = err != nil
	}
}
