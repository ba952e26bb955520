package swarm

import (
	"context"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A fetch is one call of Fetch, Gather or a collection for a peer. The Swarm's
// mutex guards it.
type fetch struct {
	key    chunk.ID   // the first chunk: which members are asked first, in a large grid
	rest   []chunk.ID // not in a list yet
	open   int        // lists
	want   map[chunk.ID]*list
	local  bool
	hints  []string
	from   []string // Gather's
	done   []chunk.ID
	last   time.Time // when a chunk last came
	lost   int       // given up
	first  chunk.ID  // of these
	stall  bool
	failed error
	wake   chan struct{}
}

func (f *fetch) fail(err error) {
	if f.failed == nil {
		f.failed = err
	}
	notify(f.wake)
}

// Fetch gets the chunks of want from the members that hold them, and returns
// once all are held. It calls got for each, those that were held before
// included, one after another; got may be nil. When some cannot be had it gets
// the others and returns a MissingError. When ctx ends it returns its error;
// what has come is kept.
func (s *Swarm) Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error {
	return s.FetchFrom(ctx, nil, want, got)
}

// FetchFrom is Fetch when it is known which members hold some of the chunks: in
// a grid of more members than a fetch connects to, these are asked first.
func (s *Swarm) FetchFrom(ctx context.Context, hints []string, want []chunk.ID, got func(chunk.ID)) error {
	select {
	case s.fetches <- struct{}{}:
		defer func() { <-s.fetches }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	}
	return s.fetch(ctx, &fetch{hints: hints}, want, got)
}

func (s *Swarm) fetch(ctx context.Context, f *fetch, want []chunk.ID, got func(chunk.ID)) error {
	if got == nil {
		got = func(chunk.ID) {}
	}
	seen := make(map[chunk.ID]struct{}, len(want))
	for _, id := range want {
		if _, twice := seen[id]; twice {
			continue
		}
		seen[id] = struct{}{}
		if s.cfg.Holdings.Has(id) {
			got(id)
		} else {
			f.rest = append(f.rest, id)
		}
	}
	if len(f.rest) == 0 {
		return nil
	}
	f.key, f.want, f.wake = want[0], make(map[chunk.ID]*list), make(chan struct{}, 1)
	now := time.Now()
	f.last = now
	s.refresh(now)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.running[f] = struct{}{}
	s.maintain(now) // so that the plan expects them
	s.openMore(now, f)
	s.step(now)
	s.mu.Unlock()
	notify(s.kick)
	defer func() {
		s.mu.Lock()
		s.abandon(f)
		s.step(time.Now())
		s.mu.Unlock()
	}()
	var err error
	for {
		s.mu.Lock()
		done, over := f.done, len(f.want) == 0 && len(f.rest) == 0
		f.done, err = nil, f.failed
		if err == nil && over && f.lost > 0 {
			err = &MissingError{Missing: f.lost, First: f.first, Asked: len(s.conns), Stalled: f.stall}
		}
		s.mu.Unlock()
		for _, id := range done {
			got(id)
		}
		if over || err != nil {
			break
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return ErrClosed
		}
	}
	if stager, is := s.cfg.Holdings.(chunk.Stager); is {
		if sync := stager.Sync(); err == nil {
			err = sync
		}
	}
	return err
}

// openMore makes lists of what f wants next.
func (s *Swarm) openMore(now time.Time, f *fetch) {
	for f.open < openLists && len(f.rest) > 0 {
		n := min(len(f.rest), listSize)
		s.listNumber++
		l := &list{number: s.listNumber, ids: f.rest[:n:n], left: n, f: f}
		f.rest = f.rest[n:]
		f.open++
		s.lists[l.number] = l
		for _, id := range l.ids {
			f.want[id] = l
			s.waiting[id] = append(s.waiting[id], f)
			s.plan.want(now, id, f.local)
			for _, x := range s.subs[id] {
				s.plan.wants(now, x.c.name, id)
			}
		}
		for _, c := range s.conns {
			s.tell(now, c, l)
		}
	}
}

// settle notes that a chunk is held.
func (s *Swarm) settle(now time.Time, id chunk.ID) {
	fetches := s.waiting[id]
	if len(fetches) == 0 {
		return
	}
	delete(s.waiting, id)
	s.plan.forget(id)
	for _, f := range fetches {
		f.last = now
		f.done = append(f.done, id)
		s.strike(now, f, id)
		notify(f.wake)
	}
}

// strike takes a chunk off the list that it is on.
func (s *Swarm) strike(now time.Time, f *fetch, id chunk.ID) {
	l := f.want[id]
	delete(f.want, id)
	if l.left--; l.left == 0 {
		s.closeList(l)
		s.openMore(now, f)
	}
}

func (s *Swarm) closeList(l *list) {
	delete(s.lists, l.number)
	l.f.open--
	for _, c := range s.conns {
		if c.sent[l.number] {
			delete(c.sent, l.number)
			c.send(frameForget, number(l.number).appendBody)
		}
	}
}

// lose gives a chunk up.
func (s *Swarm) lose(now time.Time, f *fetch, id chunk.ID) {
	f.lost++
	f.first = id
	s.release(f, id)
	s.strike(now, f, id)
	notify(f.wake)
}

// release takes f off those that wait for a chunk.
func (s *Swarm) release(f *fetch, id chunk.ID) {
	left := slices.DeleteFunc(s.waiting[id], func(x *fetch) bool { return x == f })
	if len(left) == 0 {
		delete(s.waiting, id)
		s.plan.forget(id)
	} else {
		s.waiting[id] = left
	}
}

// abandon ends a fetch, complete or not.
func (s *Swarm) abandon(f *fetch) {
	delete(s.running, f)
	for id := range f.want {
		s.release(f, id)
	}
	for _, l := range s.lists {
		if l.f == f {
			s.closeList(l)
		}
	}
}

// expire gives up what cannot be had.
func (s *Swarm) expire(now time.Time) {
	for f := range s.running {
		idle := now.Sub(f.last)
		if s.cfg.GiveUpAfter > 0 && idle >= s.cfg.GiveUpAfter {
			f.stall = true
			f.lost += len(f.want) + len(f.rest)
			for id := range f.want {
				f.first = id
			}
			f.fail(&MissingError{Missing: f.lost, First: f.first, Asked: len(s.conns), Stalled: true})
			continue
		}
		if idle < s.cfg.NotFoundAfter || s.dialling(f) {
			continue
		}
		lost := make([]chunk.ID, 0, len(f.want))
		for id := range f.want {
			w := s.plan.chunks[id]
			if w == nil || !s.plan.hopeless(now, w) || now.Sub(w.since) < s.cfg.NotFoundAfter {
				break
			}
			lost = append(lost, id)
		}
		if len(lost) == len(f.want) {
			for _, id := range lost {
				s.lose(now, f, id)
			}
		}
	}
}

// dialling reports whether a member that f needs is being connected to for the
// first time.
func (s *Swarm) dialling(f *fetch) bool {
	for _, name := range s.targets(f) {
		if d := s.dials[name]; s.conns[name] == nil && d != nil && d.under && d.failed == 0 {
			return true
		}
	}
	return false
}
