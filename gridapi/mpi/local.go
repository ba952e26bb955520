package mpi

import (
	"errors"
	"sync"
)

// Local returns n endpoints in memory, for ranks that are goroutines of one
// program.
func Local(n int) []Endpoint {
	hub := make([]*localEndpoint, n)
	out := make([]Endpoint, n)
	for i := range hub {
		hub[i] = &localEndpoint{rank: i, all: hub, lines: make([]localLine, n)}
		for j := range hub[i].lines {
			hub[i].lines[j].more.L = &hub[i].lines[j].mu
		}
		out[i] = hub[i]
	}
	return out
}

type localEndpoint struct {
	rank  int
	all   []*localEndpoint
	lines []localLine // from each rank
	wg    sync.WaitGroup
}

// A localLine holds the frames from one rank to another. How many is bounded by
// what the sender may send without credit.
type localLine struct {
	mu     sync.Mutex
	more   sync.Cond
	frames [][]byte
	ended  error
}

var errCut = errors.New("mpi: the connection is cut")

func (e *localEndpoint) Rank() int { return e.rank }
func (e *localEndpoint) Size() int { return len(e.all) }

func (e *localEndpoint) Start(r Receiver) {
	for from := range e.lines {
		if from != e.rank {
			e.wg.Go(func() { e.read(from, r) })
		}
	}
}

func (e *localEndpoint) read(from int, r Receiver) {
	l := &e.lines[from]
	for {
		l.mu.Lock()
		for len(l.frames) == 0 && l.ended == nil {
			l.more.Wait()
		}
		if len(l.frames) == 0 {
			err := l.ended
			l.mu.Unlock()
			r.Lost(from, err)
			return
		}
		f := l.frames[0]
		l.frames = pop(l.frames)
		l.mu.Unlock()
		if err := r.Frame(from, f[:HeaderLen], f[HeaderLen:]); err != nil {
			l.end(err)
			e.all[from].lines[e.rank].end(err)
		}
	}
}

func (l *localLine) end(err error) {
	l.mu.Lock()
	if l.ended == nil {
		l.ended = err
		l.more.Signal()
	}
	l.mu.Unlock()
}

func (e *localEndpoint) Send(to int, head, body []byte) error {
	f := append(append(make([]byte, 0, len(head)+len(body)), head...), body...)
	l := &e.all[to].lines[e.rank]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return l.ended
	}
	l.frames = append(l.frames, f)
	l.more.Signal()
	return nil
}

// Drop ends both directions; what is on its way still arrives at the other end.
func (e *localEndpoint) Drop(rank int) {
	if rank != e.rank {
		e.lines[rank].end(errCut)
		e.all[rank].lines[e.rank].end(errCut)
	}
}

func (e *localEndpoint) Close() error {
	for i := range e.all {
		e.Drop(i)
	}
	e.wg.Wait()
	return nil
}
