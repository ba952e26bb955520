package ri2n

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// dialStorm dials n times, 32 at a time, from one socket to one socket. It
// returns how many sessions could talk and how many were refused.
func dialStorm(t *testing.T, a, b *Endpoint, from Remote, n int) (connected, refused int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var dialers sync.WaitGroup
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	once := func() error {
		s, err := a.Dial(ctx, b.PeerID(), from)
		if err != nil {
			return err
		}
		st, err := s.OpenStream(ctx)
		if err != nil {
			return err
		}
		if _, err := st.Write([]byte{1}); err != nil {
			return err
		}
		st.SetReadDeadline(time.Now().Add(20 * time.Second))
		var buf [1]byte
		_, err = st.Read(buf[:])
		return err
	}
	for range 32 {
		dialers.Go(func() {
			for range todo {
				err := once()
				mu.Lock()
				switch {
				case err == nil:
					connected++
				case errors.Is(err, ErrRefused):
					refused++
				default:
					t.Errorf("dial: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	dialers.Wait()
	return connected, refused
}

// echoSessions answers one byte on one stream of each session that e accepts.
func echoSessions(t *testing.T, e *Endpoint) {
	go func() {
		for {
			s, err := e.Accept(t.Context())
			if err != nil {
				return
			}
			go func() {
				st, err := s.AcceptStream(t.Context())
				if err != nil {
					return
				}
				var buf [1]byte
				if _, err := st.Read(buf[:]); err == nil {
					st.Write(buf[:])
				}
			}()
		}
	}()
}

// TestDialStorm: handshakes of many sessions from one transport address do not
// take each other's early packets, which ended as stateless resets.
func TestDialStorm(t *testing.T) {
	net := newMemoryNet()
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	la, lb := net.link(t, a), net.link(t, b)
	echoSessions(t, b)
	n := 1000
	if raceEnabled || testing.Short() {
		n = 200
	}
	connected, refused := dialStorm(t, a, b, Remote{Link: la, Addr: linkAddr(lb)}, n)
	if connected != n {
		t.Errorf("of %d dials %d connected and %d were refused, want all connected", n, connected, refused)
	}
	if got := b.Stats().StatelessResetsSent; got != 0 {
		t.Errorf("stateless resets sent = %d, want none", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := len(b.halfOpen.tuples); got != 0 || b.halfOpen.early != 0 || b.halfOpen.count != 0 {
		t.Errorf("left over: %d addresses, %d early packets, %d half-open", got, b.halfOpen.early, b.halfOpen.count)
	}
}

// TestSessionsBeyondLimitsAreRefused: what an endpoint has no room for is told
// so with a code, and counted.
func TestSessionsBeyondLimitsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		accepts bool
		edit    func(*Config)
		counter func(Stats) uint64
	}{
		{"nobody accepts", false, func(c *Config) { c.AcceptQueue = 4 }, func(s Stats) uint64 { return s.AcceptQueueOverflows }},
		{"too many sessions", true, func(c *Config) { c.MaxSessions = 4 }, func(s Stats) uint64 { return s.SessionsRefused }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := newMemoryNet()
			a, b := newTestEndpoint(t), newTestEndpoint(t, tt.edit)
			la, lb := net.link(t, a), net.link(t, b)
			if tt.accepts {
				echoSessions(t, b)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for i := range 50 {
				s, err := a.Dial(ctx, b.PeerID(), Remote{Link: la, Addr: linkAddr(lb)})
				if i < 4 {
					if err != nil {
						t.Fatalf("dial %d: %v", i, err)
					}
					// The responder is ready half a round trip later.
					for b.Stats().SessionsStarted == uint64(i) && ctx.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					continue
				}
				if err == nil {
					select {
					case <-s.Done():
						err = s.Err()
					case <-ctx.Done():
						t.Fatalf("dial %d is not refused", i)
					}
				}
				if !errors.Is(err, ErrRefused) {
					t.Errorf("dial %d: %v, want %v", i, err, ErrRefused)
				}
			}
			if got := tt.counter(b.Stats()); got != 46 {
				t.Errorf("counted %d refusals, want 46", got)
			}
		})
	}
}
