package main

import (
	"context"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
)

// A storePresence knows which members can be reached and keep a store. A dial
// shows that; from then on the failure detector says whether the member is still
// there. Its methods may be called concurrently.
type storePresence struct {
	// dial reaches a member's store and leaves it.
	dial func(ctx context.Context, member string) error

	mu      sync.Mutex // guards what follows
	members map[string]*storePeer
}

type storePeer struct {
	store   bool          // it had one when it was tried last
	gone    bool          // the failure detector says so
	dialing chan struct{} // closed when the dial that is under way has ended; nil: none is
	tried   time.Time
}

const (
	// presenceTime is how long a member's store has for an answer, and
	// presenceDials how many are dialed at a time: guesses.
	presenceTime  = 5 * time.Second
	presenceDials = 16
	// presenceAgain is when a store that answered is tried again, for it may
	// have been switched off.
	presenceAgain = time.Hour
	// presenceMost is how many members are tried for one object: a guess.
	presenceMost = 256
)

func newStorePresence(dial func(ctx context.Context, member string) error) *storePresence {
	return &storePresence{dial: dial, members: make(map[string]*storePeer)}
}

func (p *storePresence) peer(name string) *storePeer {
	m := p.members[name]
	if m == nil {
		m = new(storePeer)
		p.members[name] = m
	}
	return m
}

// saw notes what the failure detector says.
func (p *storePresence) saw(e overlay.MemberEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peer(e.Name).gone = e.State != overlay.MemberAlive
}

// here reports whether the member's store is there, as far as is known.
func (p *storePresence) here(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[name]
	return m != nil && m.store && !m.gone
}

// survey tries those of whom nothing good is known, and who were not tried in the
// time again. It returns when all have answered or not.
func (p *storePresence) survey(ctx context.Context, names []string, again time.Duration) {
	places := make(chan struct{}, presenceDials)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, name := range names {
		p.mu.Lock()
		m := p.peer(name)
		since := time.Since(m.tried)
		under := m.dialing
		due := under == nil && (since >= presenceAgain || (!m.store || m.gone) && since >= again)
		if due {
			m.dialing = make(chan struct{})
		}
		p.mu.Unlock()
		if under != nil {
			wg.Go(func() { <-under })
		}
		if !due {
			continue
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			one, cancel := context.WithTimeout(ctx, presenceTime)
			defer cancel()
			err := p.dial(one, name)
			p.mu.Lock()
			defer p.mu.Unlock()
			close(m.dialing)
			m.dialing, m.tried = nil, time.Now()
			if m.store = err == nil; m.store {
				m.gone = false
			}
		})
	}
}
