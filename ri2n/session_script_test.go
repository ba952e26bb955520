package ri2n

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A lane is the way of one path between the endpoints of a stage.
type lane struct {
	la, lb *Link
	ca, cb *scriptedConn
	hosts  [2]string
}

func (s *stage) firstLane() lane { return lane{s.la, s.lb, s.ca, s.cb, s.hosts} }

// newLane adds a link to each endpoint.
func (s *stage) newLane(port uint16, up ...netsim.Link) lane {
	s.t.Helper()
	if len(up) == 0 {
		up = []netsim.Link{netsim.Delay(5 * time.Millisecond)}
	}
	ha, hb := s.world.Host(up...), s.world.Host(up...)
	l := lane{hosts: [2]string{ha.Name(), hb.Name()}}
	l.la, l.ca = s.link(s.a, ha, port)
	l.lb, l.cb = s.link(s.b, hb, port)
	return l
}

// open makes a path over l.
func (l lane) open(t testing.TB, client *Session) PathInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := client.AddPath(ctx, Remote{Link: l.la, Addr: linkAddr(l.lb)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// longestGap copies from st until EOF and returns the longest wait for bytes.
func longestGap(t testing.TB, st *Stream, n int) (gap time.Duration) {
	t.Helper()
	buf := make([]byte, 64<<10)
	last := time.Now()
	for n > 0 {
		k, err := st.Read(buf)
		gap = max(gap, time.Since(last))
		last = time.Now()
		n -= k
		if err != nil && (err != io.EOF || n > 0) {
			t.Errorf("read with %d bytes to come: %v", n, err)
			return gap
		}
	}
	return gap
}

// TestSpoofedRebinding: somebody sends a copy of a packet from another address
// and is first. The session must not stay there, nor flood it.
func TestSpoofedRebinding(t *testing.T) {
	for _, tt := range []struct {
		name  string
		quiet bool // the client says nothing after the stolen packet
	}{
		{"client goes on", false},
		{"client falls silent", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, func(c *Config) { c.KeepaliveInterval = -1 })
				client, server := s.connect()
				a, b := streamPair(t, client, server)
				time.Sleep(time.Second)
				spy := s.stranger(4000)
				stolen := 0
				s.ca.setRule(func(n int, data []byte, to netip.AddrPort) []delivery {
					if n == 0 {
						stolen = len(data)
						spy.WriteTo(data, net.UDPAddrFromAddrPort(to))
						return nil
					}
					return as(data)
				})
				a.Write([]byte("x"))
				if tt.quiet {
					time.Sleep(10 * time.Millisecond)
					s.ca.setRule(dropAll)
				}
				time.Sleep(time.Millisecond)
				b.Write(make([]byte, 100<<10))
				took := time.Second
				time.Sleep(took)
				s.ca.setRule(nil)
				got := 0
				for _, d := range drainSocket(t, spy, 0) {
					got += len(d)
				}
				if got > 3*stolen {
					t.Errorf("the third address sent %d bytes and got %d", stolen, got)
				}
				if remote := server.Paths()[0].Remote; remote != linkAddr(s.la) {
					t.Errorf("server sends to %v, want %v", remote, linkAddr(s.la))
				}
				if n, err := io.ReadFull(a, make([]byte, 100<<10)); err != nil {
					t.Errorf("client read %d bytes: %v", n, err)
				}
				exchange(t, client, server, 50000)
			})
		})
	}
}

// TestZeroWindowAndLostCredit: the frames that open a closed window are lost,
// again and again.
func TestZeroWindowAndLostCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		a, b := streamPair(t, client, server)
		const size = 3 << 20
		written := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, size))
			a.CloseWrite()
			written <- err
		}()
		time.Sleep(2 * time.Second)
		server.mu.Lock()
		highest := server.recvHighest
		server.mu.Unlock()
		if got, limit := highest, uint64(initialStreamWindow); got != limit {
			t.Errorf("peer sent %d bytes into a window of %d", got, limit)
		}
		s.cb.setRule(func(n int, data []byte, _ netip.AddrPort) []delivery {
			if n < 5 || n%3 == 0 {
				return nil
			}
			return as(data)
		})
		begun := time.Now()
		if n, err := io.Copy(io.Discard, b); n != size || err != nil {
			t.Errorf("read %d bytes, %v; want %d", n, err, size)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestStreamEndings lets both ends of many streams write, half-close, close
// and reset at random moments. Nothing may remain, and all credit must be back.
func TestStreamEndings(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := netsim.Link{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: 0.3, Loss: 0.1}
				_, client, server := simPair(t, seed, up)
				rng := rand.New(rand.NewPCG(seed, 9))
				var running sync.WaitGroup
				play := func(st *Stream, rng *rand.Rand) {
					running.Go(func() {
						buf := make([]byte, 1+rng.IntN(30000))
						for range 1 + rng.IntN(4) {
							time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
							switch rng.IntN(6) {
							case 0:
								st.CloseWrite()
							case 1:
								st.Reset(uint64(rng.IntN(1 << 20)))
							case 2:
								st.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
								st.Read(buf)
							default:
								st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
								st.Write(buf)
							}
						}
						if rng.IntN(3) == 0 {
							st.Reset(1)
						} else {
							st.Close()
						}
					})
				}
				running.Go(func() {
					for range 60 {
						ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
						st, err := server.AcceptStream(ctx)
						cancel()
						if err != nil {
							return // some were reset before they were heard of
						}
						play(st, rand.New(rand.NewPCG(seed, 1000+st.ID())))
					}
				})
				for range 60 {
					st, err := client.OpenStream(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					play(st, rand.New(rand.NewPCG(seed, st.ID())))
					time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
				}
				running.Wait()
				time.Sleep(20 * time.Second)
				for _, side := range []struct{ s, peer *Session }{{client, server}, {server, client}} {
					side.s.mu.Lock()
					side.peer.mu.Lock()
					if side.s.err != nil {
						t.Errorf("session ended: %v", side.s.err)
					}
					if n := side.s.streams.len(); n != 0 {
						t.Errorf("streams left = %d", n)
						for st := range side.s.streams.all() {
							t.Logf("stream %d: send done %v reset %v/%v/%v; recv done %v peerReset %v readErr %v", st.id,
								st.send.done(), st.resetDue, st.resetSent, st.resetAcked, st.recvDone(), st.peerReset, st.readErr)
						}
					}
					if side.s.sendUsed != side.peer.recvHighest {
						t.Errorf("credit used = %d, peer counted %d", side.s.sendUsed, side.peer.recvHighest)
					}
					if side.s.recvConsumed != side.s.recvHighest {
						t.Errorf("consumed = %d of %d received", side.s.recvConsumed, side.s.recvHighest)
					}
					side.peer.mu.Unlock()
					side.s.mu.Unlock()
				}
				exchange(t, client, server, 1<<20)
			})
		})
	}
}

// TestStopSending: who closes a stream unread ends its peer's writing.
func TestStopSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		a, b := streamPair(t, client, server)
		failed := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, 64<<20))
			failed <- err
		}()
		time.Sleep(100 * time.Millisecond)
		b.Reset(77)
		begun := time.Now()
		var se *StreamError
		if err := <-failed; !errors.As(err, &se) || se.Code != 77 {
			t.Errorf("write ended with %v, want a *StreamError of code 77", err)
		}
		if got := time.Since(begun); got > 30*time.Millisecond {
			t.Errorf("write ended after %v, want half a round trip", got)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.As(err, &se) || se.Code != 77 {
			t.Errorf("read: %v, want a *StreamError of code 77", err)
		}
	})
}

func TestStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		var opened []*Stream
		for range maxOpenStreams {
			st, err := client.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			st.Write([]byte("x"))
			opened = append(opened, st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.OpenStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stream above the limit: %v, want %v", err, context.DeadlineExceeded)
		}
		go func() {
			for range maxOpenStreams / 2 {
				st, err := server.AcceptStream(t.Context())
				if err != nil {
					return
				}
				st.Close()
			}
		}()
		for _, st := range opened[:maxOpenStreams/2] {
			st.Close()
		}
		for range maxOpenStreams / 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := client.OpenStream(ctx); err != nil {
				t.Fatalf("after the peer closed streams: %v", err)
			}
			cancel()
		}
	})
}

// TestForgedResetIsIgnored: only the right token ends a session.
func TestForgedResetIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		exchange(t, client, server, 1000)
		client.mu.Lock()
		p := client.paths[0]
		token, cid := p.resetToken, p.localID
		if !p.hasToken {
			t.Fatal("the server gave no reset token")
		}
		client.mu.Unlock()
		spy := s.stranger(4000)
		send := func(token [16]byte, cid connID) {
			b := appendShortHeader(nil, shortHeader{dcid: cid, pn: 77})
			b = append(b, make([]byte, 19)...)
			b = append(b, token[:]...)
			spy.WriteTo(b, net.UDPAddrFromAddrPort(linkAddr(s.la)))
			time.Sleep(100 * time.Millisecond)
		}
		for bit := range 128 {
			bad := token
			bad[bit/8] ^= 1 << (bit % 8)
			send(bad, cid)
			send(bad, cid+1)
		}
		send(statelessResetToken(&s.a.resetKey, cid), cid) // its own token
		if err := client.Err(); err != nil {
			t.Fatalf("a forged reset ended the session: %v", err)
		}
		send(token, cid)
		if err := client.Err(); !errors.Is(err, ErrStatelessReset) {
			t.Errorf("err = %v, want %v", err, ErrStatelessReset)
		}
	})
}

// TestCloseUnderLoss: the peer learns the code though the first CLOSE is lost.
func TestCloseUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		a, b := streamPair(t, client, server)
		go io.Copy(io.Discard, a)
		go func() {
			for {
				if _, err := b.Write(make([]byte, 1000)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		time.Sleep(time.Second)
		s.ca.setRule(func(n int, data []byte, _ netip.AddrPort) []delivery {
			if n < 2 {
				return nil
			}
			return as(data)
		})
		client.CloseWithError(codeApplication+5, "enough")
		select {
		case <-server.Done():
		case <-time.After(2 * time.Second):
		}
		var remote *RemoteError
		if err := server.Err(); !errors.As(err, &remote) || remote.Code != codeApplication+5 || remote.Reason != "enough" {
			t.Errorf("err = %v, want the peer's code and reason", err)
		}
		var local *LocalError
		if err := client.Err(); !errors.As(err, &local) || local.Code != codeApplication+5 {
			t.Errorf("err = %v, want a *LocalError with the code", err)
		}
	})
}

// TestLongCloseReason: a reason longer than a packet is cut.
func TestLongCloseReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		client.CloseWithError(codeApplication, string(bytes.Repeat([]byte("x"), 100000)))
		<-server.Done()
		var remote *RemoteError
		if err := server.Err(); !errors.As(err, &remote) || len(remote.Reason) != maxCloseReason {
			t.Errorf("err = %v, want a reason of %d bytes", err, maxCloseReason)
		}
	})
}

// TestIdleSessionSaysNothingButKeepalives.
func TestIdleSessionSaysNothingButKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		l := s.newLane(7001)
		l.open(t, client)
		exchange(t, client, server, 100000)
		time.Sleep(30 * time.Second)
		conns := map[string]*scriptedConn{"a1": s.ca, "b1": s.cb, "a2": l.ca, "b2": l.cb}
		for _, c := range conns {
			c.forget()
		}
		const idle, every = 9 * time.Minute, 15 * time.Second
		begun := time.Now()
		time.Sleep(idle)
		for name, c := range conns {
			last := begun.Add(-every)
			n := 0
			for _, w := range c.captured() {
				if len(w.data) > 60 {
					t.Errorf("%s: %d bytes sent while idle", name, len(w.data))
				}
				if gap := w.at.Sub(last); gap > every+stuckWait && n > 0 {
					t.Errorf("%s: silent for %v, want at most %v", name, gap, every)
				}
				last = w.at
				n++
			}
			// A keepalive or an ACK of one each interval.
			if most := 2 * int(idle/every); n > most || n < most/2-2 {
				t.Errorf("%s: %d datagrams in %v, want %d to %d", name, n, idle, most/2, most)
			}
		}
		if client.Err() != nil || server.Err() != nil {
			t.Errorf("session ended: %v, %v", client.Err(), server.Err())
		}
		for _, p := range append(client.Paths(), server.Paths()...) {
			if p.Failovers != 0 || p.State != PathActive && p.State != PathStandby {
				t.Errorf("idle path %+v", p)
			}
		}
	})
}

// TestKeepaliveIntervalIsExact on a path where only one side sends them.
func TestKeepaliveIntervalIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.b.cfg.KeepaliveInterval = -1
		s.connect()
		time.Sleep(30 * time.Second)
		s.ca.forget()
		time.Sleep(5 * time.Minute)
		sent := s.ca.captured()
		if got, want := len(sent), 20; got != want {
			t.Errorf("keepalives in 5 min = %d, want %d", got, want)
		}
		for i := 1; i < len(sent); i++ {
			if got := sent[i].at.Sub(sent[i-1].at); got != 15*time.Second {
				t.Errorf("interval %d = %v, want 15 s", i, got)
			}
		}
	})
}

// TestLostKeepaliveIsNoSuspicion: an idle path with one lost keepalive stays
// what it is.
func TestLostKeepaliveIsNoSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		l := s.newLane(7001)
		l.open(t, client)
		time.Sleep(30 * time.Second)
		for _, c := range []*scriptedConn{s.ca, s.cb, l.ca, l.cb} {
			c.setRule(func(n int, data []byte, _ netip.AddrPort) []delivery {
				if n == 0 { // the keepalive or its ACK, not the repetition
					return nil
				}
				return as(data)
			})
			time.Sleep(40 * time.Second)
		}
		for _, p := range append(client.Paths(), server.Paths()...) {
			if p.Failovers != 0 {
				t.Errorf("path %d on %s was suspected %d times", p.ID, p.Link, p.Failovers)
			}
		}
	})
}

// TestAbandonWithDataInFlight (noq #435), over and over, so that path IDs
// beyond the first limit are used; by either side.
func TestAbandonWithDataInFlight(t *testing.T) {
	for _, tt := range []struct {
		name     string
		byServer bool
		late     time.Duration // extra delay of the lane that stays
	}{
		{"by the client", false, 0},
		{"by the server", true, 0},
		{"by the client, slow to tell", false, 60 * time.Millisecond},
		{"by the server, slow to tell", true, 60 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				for _, h := range s.hosts {
					s.world.SetUplink(h, netsim.Delay(30*time.Millisecond+tt.late))
				}
				up, upEnd := streamPair(t, client, server)
				downEnd, down := streamPair(t, client, server)
				ended := make(chan struct{})
				stop := make(chan struct{})
				go func() {
					defer close(ended)
					l := s.newLane(7001)
					for range 12 {
						select {
						case <-stop:
							return
						default:
						}
						p := l.open(t, client)
						time.Sleep(150 * time.Millisecond)
						side := client
						if tt.byServer {
							side = server
						}
						if err := side.AbandonPath(p.ID); err != nil {
							t.Errorf("abandon path %d: %v", p.ID, err)
						}
						time.Sleep(250 * time.Millisecond)
					}
				}()
				var both sync.WaitGroup
				both.Go(func() { transfer(t, up, upEnd, 2<<20) })
				both.Go(func() { transfer(t, down, downEnd, 2<<20) })
				both.Wait()
				<-ended
				if client.Err() != nil || server.Err() != nil {
					t.Errorf("session ended: %v, %v", client.Err(), server.Err())
				}
				if got := s.a.Stats().StatelessResetsSent + s.b.Stats().StatelessResetsSent; got != 0 {
					t.Errorf("stateless resets sent = %d, want 0", got)
				}
				for _, side := range []*Session{client, server} {
					if got := len(side.Paths()); got != 1 {
						t.Errorf("paths = %d, want 1", got)
					}
				}
				s.a.routes.mu.RLock()
				if got := len(s.a.routes.short); got > 64 {
					t.Errorf("connection IDs = %d", got)
				}
				s.a.routes.mu.RUnlock()
			})
		})
	}
}

// TestBlackHoles cuts one direction or both of the better of two paths while
// data flows both ways.
func TestBlackHoles(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to bool // seen from the client
	}{
		{"toward the server", false, true},
		{"toward the client", true, false},
		{"both", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				for _, h := range s.hosts {
					s.world.SetUplink(h, netsim.Link{Delay: 15 * time.Millisecond, Rate: 50e6})
				}
				l := s.newLane(7001, netsim.Link{Delay: 5 * time.Millisecond, Rate: 50e6})
				l.open(t, client)
				up, upEnd := streamPair(t, client, server)
				downEnd, down := streamPair(t, client, server)
				const size = 2 << 20
				write := func(st *Stream) {
					for range size / 10000 {
						if _, err := st.Write(make([]byte, 10000)); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						time.Sleep(4 * time.Millisecond)
					}
				}
				go write(up)
				go write(down)
				time.AfterFunc(500*time.Millisecond, func() {
					if tt.to {
						l.ca.setRule(dropAll)
					}
					if tt.from {
						l.cb.setRule(dropAll)
					}
				})
				var both sync.WaitGroup
				var gapUp, gapDown time.Duration
				both.Go(func() { gapUp = longestGap(t, upEnd, size/10000*10000) })
				both.Go(func() { gapDown = longestGap(t, downEnd, size/10000*10000) })
				both.Wait()

				if gap := max(gapUp, gapDown); gap > 200*time.Millisecond {
					t.Errorf("longest gap = %v", gap)
				}
				time.Sleep(time.Second)
				for name, side := range map[string]*Session{"client": client, "server": server} {
					if got := sendingLink(side); got == l.hosts[0] || got == l.hosts[1] {
						t.Errorf("%s still sends on the broken path", name)
					}
				}
			})
		})
	}
}

// TestOneWayDeadPath: a path that never passed one direction is not proven.
func TestOneWayDeadPath(t *testing.T) {
	for _, toServer := range []bool{true, false} {
		t.Run(fmt.Sprintf("toward the server %v", toServer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				l := s.newLane(7001)
				if toServer {
					l.ca.setRule(dropAll)
				} else {
					l.cb.setRule(dropAll)
				}
				begun := time.Now()
				_, err := client.AddPath(t.Context(), Remote{Link: l.la, Addr: linkAddr(l.lb)})
				if !errors.Is(err, ErrNoPath) {
					t.Errorf("err = %v, want %v", err, ErrNoPath)
				}
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("took %v", took)
				}
				for range 12 { // path IDs that came to nothing are replaced
					if _, err := client.AddPath(t.Context(), Remote{Link: l.la, Addr: linkAddr(l.lb)}); !errors.Is(err, ErrNoPath) {
						t.Fatalf("err = %v, want %v", err, ErrNoPath)
					}
				}
				time.Sleep(5 * time.Second)
				if got := len(server.Paths()); got != 1 {
					t.Errorf("server keeps %d paths, want 1: %+v", got, server.Paths())
				}
				exchange(t, client, server, 100000)
			})
		})
	}
}

// TestLossOnBothPaths (go-iroh #1): time-outs on the second path must not
// stall the session.
func TestLossOnBothPaths(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			w, client, server := simPair(t, seed, netsim.Link{Delay: 20 * time.Millisecond, Loss: 0.06})
			addDirectPath(t, w, client, server, netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.06})
			a, b := streamPair(t, client, server)
			if took := transfer(t, a, b, 1<<20); took > 20*time.Second {
				t.Errorf("seed %d: took %v", seed, took)
			}
		})
	}
}

// TestAllPathsDieAndOneReturns at 20 s.
func TestAllPathsDieAndOneReturns(t *testing.T) {
	for back := range 2 {
		t.Run(fmt.Sprintf("path %d", back), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				l := s.newLane(7001, netsim.Delay(2*time.Millisecond))
				l.open(t, client)
				lanes := []lane{s.firstLane(), l}
				a, b := streamPair(t, client, server)
				go func() {
					for range 3000 {
						if _, err := a.Write(make([]byte, 1000)); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
				}()
				go longestGap(t, b, 100*1000)
				time.Sleep(time.Second)
				for i := range lanes {
					lanes[i].ca.setRule(dropAll)
					lanes[i].cb.setRule(dropAll)
				}
				time.Sleep(20 * time.Second)
				lanes[back].ca.setRule(nil)
				lanes[back].cb.setRule(nil)
				gap := longestGap(t, b, 2900*1000)
				t.Logf("gap %v after the return", gap)
				if gap > 12*time.Second {
					t.Errorf("data flowed %v after the path returned", gap)
				}
				if client.Err() != nil || server.Err() != nil {
					t.Errorf("session ended: %v, %v", client.Err(), server.Err())
				}
			})
		})
	}
}

// TestSmallUnderlay: an underlay of 1124 bytes carries the handshake and a
// second path, both at the floor of 1040 bytes.
func TestSmallUnderlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, client, server := simPair(t, 1, netsim.Link{Delay: 5 * time.Millisecond, MTU: 1124})
		exchange(t, client, server, 200000)
		small := netsim.Link{Delay: time.Millisecond, MTU: 1124}
		ha, hb := w.Host(small), w.Host(small)
		la, lb := addSimulated(t, client.endpoint, ha, 7001), addSimulated(t, server.endpoint, hb, 7001)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		p, err := client.AddPath(ctx, Remote{Link: la, Addr: linkAddr(lb)})
		if err != nil {
			t.Fatal(err)
		}
		if p.MTU > 1096 {
			t.Errorf("packets of %d bytes on a path for 1096", p.MTU)
		}
		time.Sleep(time.Second)
		exchange(t, client, server, 200000)
	})
}

// TestConnIDCollision: where another session has the connection ID that a path
// would have, that path ID is lost and nothing else.
func TestConnIDCollision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := netsim.Delay(5 * time.Millisecond)
		w := netsim.New(t, 1)
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		var la, lb [3]*Link
		for i := range la {
			la[i] = addSimulated(t, a, w.Host(up), 7000)
			lb[i] = addSimulated(t, b, w.Host(up), 7000)
		}
		client, server := connectSessions(t, a, b, Remote{Link: la[0], Addr: linkAddr(lb[0])})
		another, _ := connectSessions(t, a, b, Remote{Link: la[0], Addr: linkAddr(lb[0])})

		taken := client.localIDs.cid(2, 0) // of the first path that the client opens
		if !a.routes.addShort(taken, &route{session: another, path: 2}) {
			t.Fatal("the connection ID is in use before the path is")
		}
		if _, err := client.AddPath(t.Context(), Remote{Link: la[1], Addr: linkAddr(lb[1])}); !errors.Is(err, ErrNoPath) {
			t.Errorf("AddPath = %v, want %v", err, ErrNoPath)
		}
		info, err := client.AddPath(t.Context(), Remote{Link: la[1], Addr: linkAddr(lb[1])})
		if err != nil || info.ID != 4 {
			t.Errorf("the next path is %d, %v; want 4, nil", info.ID, err)
		}
		if r := a.routes.findShort(taken); r == nil || r.session != another {
			t.Error("the other session has lost its connection ID")
		}

		// The same at the responder, which has registered what the peer may open.
		of := server.localIDs.cid(6, 0)
		b.routes.removeShort(of, server)
		b.routes.addShort(of, &route{session: another, path: 6})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := client.AddPath(ctx, Remote{Link: la[2], Addr: linkAddr(lb[2])}); err == nil {
			t.Error("a path whose packets reach another session is up")
		}
		if info, err := client.AddPath(t.Context(), Remote{Link: la[2], Addr: linkAddr(lb[2])}); err != nil || info.ID != 8 {
			t.Errorf("the path after that is %d, %v; want 8, nil", info.ID, err)
		}
		x, y := streamPair(t, client, server)
		transfer(t, x, y, 1<<20)
	})
}

// TestLongRoundTrip: of 1.5 s, as over a satellite and back, with losses
// (quic-interop-runner, longrtt). No time-out is mistaken for a loss.
func TestLongRoundTrip(t *testing.T) {
	for _, loss := range []float64{0, 0.02} {
		synctest.Test(t, func(t *testing.T) {
			_, client, server := simPair(t, 1, netsim.Link{Delay: 375 * time.Millisecond, Rate: 10e6, Loss: loss})
			a, b := streamPair(t, client, server)
			took := transfer(t, a, b, 4<<20)
			p := client.Paths()[0]
			t.Logf("4 MiB in %v, %d packets lost of %d, %d time-outs", took, p.PacketsLost, p.PacketsSent, p.ProbeTimeouts)
			// 3.4 s of sending, a slow start of some ten round trips before it.
			if took > 40*time.Second {
				t.Errorf("took %v", took)
			}
			if sent, need := p.BytesSent, uint64(4<<20); loss == 0 && sent > need+need/5 {
				t.Errorf("%d bytes sent for %d: what was on its way was sent again", sent, need)
			}
		})
	}
}
