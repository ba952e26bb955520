package server

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/relay"
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

// An asking is what one session asks the ledger, on the session's reader: an
// agent has one question at a time before it.
type asking struct {
	server    *Server
	agent     *relay.Agent
	collector protocol.Collector
	limiter   *rate.Limiter
	asked     int
}

func newAsking(s *Server, a *relay.Agent) *asking {
	return &asking{server: s, agent: a, limiter: rate.NewLimiter(asksPerSecond, asksBurst)}
}

// Stop gives back what the session still held.
func (q *asking) Stop() { q.server.asks.underWay.Add(-int64(q.collector.Size())) }

// Ask takes one part of a question, and answers it after its last. The error
// ends the session.
func (q *asking) Ask(ctx context.Context, m protocol.Ask) error {
	s := q.server
	standing := s.relay.Standing(q.agent)
	if standing == relay.Gone {
		return nil
	}
	limit := membership.MaxSmallRequest
	if standing == relay.Member {
		limit = membership.MaxRequest
	}
	before := q.collector.Size()
	whole, done, err := q.collector.Add(m.Request, m.More, m.Data, limit)
	held := s.asks.underWay.Add(int64(q.collector.Size() - before))
	switch {
	case err != nil:
		return err
	case !done && held > maxUnderWay:
		q.busy()
		return nil
	case !done:
		return nil
	}
	q.asked++
	var answer []byte
	if standing == relay.Stranger && q.asked > strangerAsks || !q.limiter.Allow() {
		s.asks.refused.Add(1)
		answer = membership.AppendFailure(nil, &membership.Error{Problem: membership.TooMany, What: "the rendezvous", Detail: "too many questions; try again in a moment"})
	} else {
		s.asks.done.Add(1)
		answer = s.ledger.Answer(ctx, time.Now(), q.agent.Peer(), whole)
	}
	if !q.drained(ctx) {
		q.busy()
		return nil
	}
	s.relay.Answer(q.agent, protocol.Answers(m.Request, answer)) // which may have joined
	return nil
}

// busy ends the session of an agent that asks for more than there is room for.
func (q *asking) busy() {
	q.server.asks.refused.Add(1)
	q.server.relay.EndBusy(q.agent)
}

// drained waits until the agent has read most of what was sent to it.
func (q *asking) drained(ctx context.Context) bool {
	for end := time.Now().Add(drainTime); ; {
		if q.server.relay.Waiting(q.agent) <= outboxRoom {
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
