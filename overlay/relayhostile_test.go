package overlay

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// add makes one more member on a host of its own.
func (r *relayRig) add(h netsim.Host, number int, name string, o membership.InviteOptions, change func(*Config)) *Node {
	r.t.Helper()
	o.Uses = 1
	dir := r.join(h, number, name, r.invite(o))
	n := r.start(h, number, func(c *Config) {
		c.Dir, c.Rendezvous = dir, ""
		if change != nil {
			change(c)
		}
	})
	r.ready(n)
	return n
}

// A relaySink counts what arrives on channels, by sender.
type relaySink struct {
	mu    sync.Mutex
	bytes map[ri2n.PeerID]int
}

func (s *relaySink) take(_ ri2n.PeerID, ch *rendezvous.Channel) {
	ch.Attach(func(b []byte) {
		s.mu.Lock()
		s.bytes[ch.Peer()] += len(b)
		s.mu.Unlock()
	})
	ch.Send([]byte{0x40}) // consent
}

// floodVia sends at a rate in bits a second over channels of n's first leg.
func floodVia(t *testing.T, n *Node, peer ri2n.PeerID, channels int, rate float64, d time.Duration) {
	legs := n.legs.ready()
	if len(legs) == 0 {
		t.Error("no leg")
		return
	}
	var open []*rendezvous.Channel
	for range channels {
		ch, err := legs[0].client.OpenChannel(peer)
		if err != nil {
			t.Error(err)
			return
		}
		ch.Attach(func([]byte) {})
		defer ch.Close()
		open = append(open, ch)
	}
	packet := bytes.Repeat([]byte{0x40}, 1000)
	for _, ch := range open {
		ch.Send(packet)
	}
	time.Sleep(200 * time.Millisecond)
	start, sent := time.Now(), 0
	for time.Since(start) < d {
		for ; float64(sent) < rate/8/1000*time.Since(start).Seconds(); sent++ {
			open[sent%channels].Send(packet)
		}
		time.Sleep(time.Millisecond)
	}
}

// security.md, section 2: against a relay hog the honest share is at least 0.9
// of the fair one, whether the target's link or the relay's own limit is narrow.
func TestPeerRelayHogGetsNoMoreThanItsShare(t *testing.T) {
	for _, tt := range []struct {
		name  string
		link  netsim.Link // of the target
		limit RelayConfig
	}{
		{"target's link", netsim.Link{Delay: 5 * time.Millisecond, Rate: 2e6}, RelayConfig{}},
		{"relay's rate", netsim.Link{Delay: 5 * time.Millisecond}, RelayConfig{Rate: 2e6 / 8}},
	} {
		bubble(t, func(t *testing.T) {
			r := newRelayRig(t, 1, func(c *Config) { c.Relay = tt.limit })
			counts := &relaySink{bytes: make(map[ri2n.PeerID]int)}
			near := netsim.Delay(5 * time.Millisecond)
			target := r.add(r.world.Host(tt.link), 30, "target", membership.InviteOptions{}, func(c *Config) { c.onRelayed = counts.take })
			hog := r.add(r.world.Host(near), 31, "hog", membership.InviteOptions{}, nil)
			honest := r.add(r.world.Host(near), 32, "honest", membership.InviteOptions{}, nil)
			r.registered(1, target, hog, honest)
			const d = 6 * time.Second
			var running sync.WaitGroup
			running.Go(func() { floodVia(t, hog, target.PeerID(), 16, 8e6, d) })
			running.Go(func() { floodVia(t, honest, target.PeerID(), 1, 1.2e6, d) })
			time.Sleep(2 * time.Second) // the limit has seen both
			counts.mu.Lock()
			clear(counts.bytes)
			counts.mu.Unlock()
			running.Wait()
			counts.mu.Lock()
			defer counts.mu.Unlock()
			took := (d - 2*time.Second + 200*time.Millisecond).Seconds()
			got := float64(counts.bytes[honest.PeerID()])
			fair := (got + float64(counts.bytes[hog.PeerID()])) / 2
			t.Logf("%s, simulated: honest %.2f Mbit/s, fair share %.2f Mbit/s", tt.name, got*8/took/1e6, fair*8/took/1e6)
			if got < 0.9*fair || fair*8/took < 0.6e6 {
				t.Errorf("%s: the honest sender got %.2f of the fair share, want 0.9", tt.name, got/fair)
			}
		})
	}
}

// Strangers have no state at the relay, and members no more than their slots.
func TestPeerRelaySlotExhaustion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := startRelayRig(t, &relayRig{noRouting: true}, 1, func(c *Config) { c.Relay.ChannelsPerPeer = 8 }) // channels are counted
		r.registered(1, r.alice, r.bob)
		relay := r.relays[0]
		before := relay.relayHost.relay.Snapshot()

		// Strangers that show no membership ask for the service and send
		// datagrams all the same.
		for i := range 100 {
			s := r.stranger(100 + i)
			session, err := s.endpoint.Dial(t.Context(), relay.PeerID(), ri2n.Remote{Link: s.link, Addr: relay.links.all()[0].local})
			if err != nil {
				continue
			}
			s.opens(session, appendHeader(nil, header{networkService, uint16(serviceRelay)}))
			session.SendDatagram(0, []byte{byte(datagramRelay), toRelay, 0, 0x40})
		}
		time.Sleep(time.Second)
		if v := relay.relayHost.relay.Snapshot(); v.Sessions != before.Sessions || v.Registered != before.Registered || v.Held != 0 {
			t.Errorf("the relay has %d sessions and holds %d datagrams, had %d and none", v.Sessions, v.Held, before.Sessions)
		}

		// A peer that is allowed, yet no member, is refused too.
		outsider := identity(t, 99).PeerID()
		if err := relay.Allow(outsider); err != nil {
			t.Fatal(err)
		}
		s := r.stranger(99)
		session := s.dial(relay)
		s.opens(session, appendMessage(append([]byte(nil), controlHeader...), hello{version: 1}))
		st := s.opens(session, appendHeader(nil, header{networkService, uint16(serviceRelay)}))
		expectReset(t, st, resetRefused)
		if got := relay.Status().Counters.RelaysRefused; got != 1 {
			t.Errorf("%d registrations refused, want 1", got)
		}

		// A member opens channels until it may open no more; others may.
		counts := &relaySink{bytes: make(map[ri2n.PeerID]int)}
		taker := r.add(r.world.Host(), 30, "taker", membership.InviteOptions{}, func(c *Config) { c.onRelayed = counts.take })
		r.registered(1, taker)
		l := r.alice.legs.ready()[0]
		refused := 0
		for i := range 40 {
			target := taker.PeerID()
			if i >= 20 {
				target = identity(t, 500+i).PeerID() // who is not there
			}
			ch, err := l.client.OpenChannel(target)
			if err != nil {
				t.Fatal(err)
			}
			ch.Send([]byte{0x40})
			time.Sleep(100 * time.Millisecond)
			if isClosed(ch.Done()) {
				refused++
			}
		}
		if refused != 32 {
			t.Errorf("%d of 40 channels refused, want 32", refused)
		}
		ch, err := r.bob.legs.ready()[0].client.OpenChannel(r.alice.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if isClosed(ch.Done()) {
			t.Errorf("an honest member's channel: %v", ch.Err())
		}
	})
}

// expectReset reads until the node resets the stream.
func expectReset(t *testing.T, st *ri2n.Stream, code uint64) {
	t.Helper()
	st.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := st.Read(make([]byte, 1))
	var reset *ri2n.StreamError
	if !errors.As(err, &reset) || reset.Code != code {
		t.Errorf("the stream ends with %v, want code %#x", err, code)
	}
}

// A relay is asked for peer IDs, so that there is no way to name an address; a
// peer that has a session with it and has not registered is not there either.
func TestPeerRelayTowardNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
		r.registered(1, r.alice)
		relay := r.relays[0]
		// Bob's registration ends, its session stays.
		bob := r.bob.legs.leg(relay.PeerID())
		bob.client.Close()
		time.Sleep(time.Second)
		l := r.alice.legs.ready()[0]
		sent := relay.relayHost.relay.Snapshot().RelayedDatagrams
		for _, id := range []ri2n.PeerID{r.bob.PeerID(), relay.PeerID(), r.alice.PeerID(), {}, identity(t, 77).PeerID()} {
			ch, err := l.client.OpenChannel(id)
			if err != nil {
				t.Fatal(err)
			}
			ch.Send([]byte{0x40})
			<-ch.Done()
			var refused *rendezvous.RefusedError
			if !errors.As(ch.Err(), &refused) || refused.Reason != rendezvous.ReasonUnknownPeer {
				t.Errorf("a channel to %s ends with %v", id.Short(), ch.Err())
			}
		}
		if got := relay.relayHost.relay.Snapshot().RelayedDatagrams - sent; got != 0 {
			t.Errorf("%d datagrams were relayed to nobody", got)
		}
	})
}

// A member without the role relays for nobody, and neither does one whose
// operator has switched it off.
func TestPeerRelayWithoutTheRole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, func(c *Config) { c.Relay.Mode = RelayOff })
		for _, server := range []*Node{r.bob, r.relays[0]} {
			p, err := r.alice.Connect(t.Context(), server.PeerID())
			if err != nil {
				t.Fatal(err)
			}
			<-p.best().ready
			before := server.Status().Counters.RelaysRefused
			st, err := p.best().openService(t.Context(), serviceRelay)
			if err != nil {
				t.Fatal(err)
			}
			expectReset(t, st, resetRefused)
			if got := server.Status().Counters.RelaysRefused - before; got == 0 {
				t.Error("no registration was counted as refused")
			}
			if server.Status().Relay.Serves {
				t.Error("it says that it relays")
			}
		}
		if with := r.alice.Status().Relay.With; len(with) != 0 {
			t.Errorf("registered with %v", with)
		}
	})
}

// A liar changes what a relay passes on: it returns what leaves in place of a
// packet, now, and may send more later.
type liar func(packet []byte, send func([]byte)) (pass bool)

// corrupt has a relay treat what members send through it as l says.
func (r *relayRig) corrupt(relay *Node, l liar) {
	relay.eachPeer(func(p *Peer) {
		for _, a := range p.all() {
			honest := a.relayed.Load()
			if honest == nil {
				continue
			}
			one := func(b []byte) { (*honest)([][]byte{b}) }
			lying := func(list [][]byte) {
				for _, b := range list {
					if b = bytes.Clone(b); l(b, one) {
						one(b)
					}
				}
			}
			a.relayed.Store(&lying)
		}
	})
}

// A relay that drops, delays, doubles or corrupts what it carries does not
// disturb a stream for longer than it takes to find another relay.
func TestLyingPeerRelay(t *testing.T) {
	for _, tt := range []struct {
		name string
		liar func(t *testing.T) liar
		left bool          // the relay is given up
		most time.Duration // without a byte
	}{
		{"drops", func(*testing.T) liar { return func([]byte, func([]byte)) bool { return false } }, true, 5 * time.Second},
		{"corrupts", func(*testing.T) liar {
			return func(b []byte, _ func([]byte)) bool { b[len(b)/2] ^= 0x10; return true }
		}, true, 5 * time.Second},
		{"doubles", func(*testing.T) liar {
			return func(b []byte, send func([]byte)) bool { send(bytes.Clone(b)); return true }
		}, false, time.Second},
		{"delays", func(t *testing.T) liar {
			return func(b []byte, send func([]byte)) bool {
				time.AfterFunc(2*time.Second, func() { send(b) })
				return false
			}
		}, true, 6 * time.Second},
		{"drops a third", func(*testing.T) liar {
			random := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			return func([]byte, func([]byte)) bool {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(3) > 0
			}
		}, true, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := startRelayRig(t, &relayRig{noRouting: true}, 2, nil) // one session, whatever routing thinks of the peer
				r.registered(2, r.alice, r.bob)
				r.server.Close()
				time.Sleep(10 * time.Second)
				x, c := sendFile(t, r.alice, r.bob, 1<<20)
				defer c.Close()
				p := r.awaitKind(KindPeerRelay, 5*time.Second)
				for _, relay := range r.relays {
					if relay.PeerID() == p.Relay.Peer {
						r.corrupt(relay, tt.liar(t))
					}
				}
				start := time.Now()
				pause := x.finish()
				// Either end may have opened the channel through the liar.
				relaysLeft := func() uint64 {
					return r.alice.Status().Counters.RelaysLeft + r.bob.Status().Counters.RelaysLeft
				}
				left := relaysLeft()
				t.Logf("the rest took %v, longest pause %v, %d relays left", time.Since(start), pause, left)
				if pause > tt.most {
					t.Errorf("longest pause %v, want at most %v", pause, tt.most)
				}
				if tt.left && left == 0 {
					time.Sleep(30 * time.Second)
					if relaysLeft() == 0 {
						t.Errorf("the relay is still used: %+v", kindOf(r.alice, r.bob.PeerID()))
					}
				}
			})
		})
	}
}

// A relay that keeps what it passed on and sends it again later delivers no
// byte twice.
func TestPeerRelayReplaysCapturedPackets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
		r.registered(1, r.alice, r.bob)
		r.server.Close()
		time.Sleep(10 * time.Second)
		var mu sync.Mutex
		var captured [][]byte
		var again func([]byte)
		r.corrupt(r.relays[0], func(b []byte, send func([]byte)) bool {
			mu.Lock()
			defer mu.Unlock()
			captured = append(captured, bytes.Clone(b))
			again = send
			return true
		})
		echo(t, r.bob, ":7001")
		x, c := sendFile(t, r.alice, r.bob, 256<<10)
		defer c.Close()
		x.finish() // compares hashes: what arrives twice would change it
		e := dial(t, r.alice, r.bob.PeerID(), 7001)
		defer e.Close()
		says(t, e, "once")
		mu.Lock()
		replay, send := captured, again
		captured = nil
		mu.Unlock()
		if len(replay) < 200 {
			t.Fatalf("captured %d packets", len(replay))
		}
		for _, b := range replay {
			send(bytes.Clone(b))
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		e.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := e.Read(make([]byte, 16)); n != 0 {
			t.Errorf("%d bytes arrived twice (%v)", n, err)
		}
		e.SetReadDeadline(time.Time{})
		says(t, e, "and again")
	})
}

// A node that is reached through a relay is no relay for the one that reaches it
// so, and a relay is not reached through another: no packet passes two.
func TestPeerRelayIsNotNested(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 2, nil)
		r.registered(2, r.alice, r.bob)
		p := r.alice.peerByID(r.relays[0].PeerID())
		if p.carry() {
			t.Error("a relay that we are registered with may be reached through another")
		}
		q := r.alice.peerByID(r.bob.PeerID())
		if !q.carry() {
			t.Fatal("nothing may be relayed to bob")
		}
		if q.beginLeg() {
			t.Error("a peer that is reached through a relay may relay")
		}
		q.carryNoMore()

		// A relay opens a channel toward a member that has it for a relay.
		other := r.relays[1]
		l := other.legs.leg(r.relays[0].PeerID())
		if l == nil {
			t.Fatal("the relays do not relay for each other")
		}
		before := r.alice.Status().Counters.RelaysNested
		ch, err := l.client.OpenChannel(r.alice.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		ch.Send([]byte{0x40})
		select {
		case <-ch.Done():
		case <-time.After(5 * time.Second):
			t.Error("the channel stays open")
		}
		if got := r.alice.Status().Counters.RelaysNested - before; got != 1 {
			t.Errorf("%d refused as nested, want 1", got)
		}
	})
}
