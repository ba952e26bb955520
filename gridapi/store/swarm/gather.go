package swarm

import (
	"context"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/internal/hrw"
)

// Gather gets chunks that are spread over the members of from, each of which
// holds some: the results of a job. One member of each site is elected to
// collect what the others of the site hold, and sends it in one stream; when it
// goes, another one is elected. For the rest it is like Fetch.
func (s *Swarm) Gather(ctx context.Context, from []string, want []chunk.ID, got func(chunk.ID)) error {
	select {
	case s.fetches <- struct{}{}:
		defer func() { <-s.fetches }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	}
	f := &fetch{from: slices.Clone(from)}
	if f.from == nil {
		f.from = []string{}
	}
	return s.fetch(ctx, f, want, got)
}

// collectors elects one member of each site of f. Those of our own site need
// none: they are our neighbours.
func (s *Swarm) collectors(f *fetch) (names []string) {
	now := time.Now()
	best := make(map[string]string)
	for _, name := range f.from {
		site, known := s.sites[name]
		if name == s.cfg.Self || !known {
			continue
		}
		if site == "" || site == s.plan.cfg.site {
			names = append(names, name)
			continue
		}
		if d := s.dials[name]; s.conns[name] == nil && d != nil && !d.under && now.Before(d.after) {
			continue // it is not there now
		}
		if old := best[site]; old == "" || hrw.Score(f.key, hrw.NameOf(name)) > hrw.Score(f.key, hrw.NameOf(old)) {
			best[site] = name
		}
	}
	for _, name := range best {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// collect fetches from our site what a peer wants collected. It takes no more
// than a few such lists at a time, and says so by ending them at once.
func (s *Swarm) collect(c *conn, number32 uint32, missing []chunk.ID) {
	s.mu.Lock()
	refused := len(missing) == 0 || s.collects >= maxCollects || s.closing || s.plan.cfg.site == ""
	if !refused {
		s.collects++
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if refused {
		c.send(frameEnd, number(number32).appendBody)
		return
	}
	go func() {
		defer s.wg.Done()
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		stop := make(chan struct{})
		defer close(stop)
		s.wg.Go(func() {
			select {
			case <-c.closed:
				cancel()
			case <-stop:
			}
		})
		// What is missing is missing: the peer sees that by the end.
		err := s.fetch(ctx, &fetch{local: true}, missing, func(chunk.ID) {
			s.count(func(n *Counters) { n.Collected++ })
		})
		if err != nil {
			s.log.Debug("not all could be collected", "for", c.name, "error", err)
		}
		s.mu.Lock()
		s.collects--
		s.mu.Unlock()
		c.send(frameEnd, number(number32).appendBody)
	}()
}
