package server_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A sink counts what arrives on channels, by sender.
type sink struct {
	mu    sync.Mutex
	bytes map[ri2n.PeerID]int
}

func (s *sink) accept(ch *rendezvous.Channel) {
	peer := ch.Peer()
	ch.Attach(func(b []byte) {
		s.mu.Lock()
		s.bytes[peer] += len(b)
		first := s.bytes[peer] == len(b)
		s.mu.Unlock()
		if first {
			ch.Send([]byte{0x40}) // consent
		}
	})
}

// flood sends packets of 1000 bytes at rate bits a second through channels to
// peer until the time is over.
func flood(t testing.TB, n *node, peer ri2n.PeerID, channels int, rate float64, d time.Duration) {
	t.Helper()
	var open []*rendezvous.Channel
	for range channels {
		ch, err := n.client.OpenChannel(peer)
		if err != nil {
			t.Error(err)
			return
		}
		ch.Attach(func([]byte) {})
		open = append(open, ch)
	}
	packet := make([]byte, 1000)
	packet[0] = 0x40
	start := time.Now()
	for sent := 0; time.Since(start) < d; {
		for ; float64(sent) < rate/8/1000*time.Since(start).Seconds(); sent++ {
			open[sent%channels].Send(packet)
		}
		time.Sleep(time.Millisecond)
	}
}

// security.md, section 2: against a relay hog the honest share is at least 0.9
// of the fair one.
func TestRelayHogGetsNoMoreThanItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 11)
		public := world.Host()
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		counts := &sink{bytes: make(map[ri2n.PeerID]int)}
		// The bottleneck is the target's access link.
		target := startNode(t, world.Host(netsim.Link{Delay: 5 * time.Millisecond, Rate: 10e6}), at, 1, func(cfg *rendezvous.Config) {
			cfg.OnChannel = counts.accept
		})
		defer target.close()
		hog := startNode(t, world.Host(netsim.Delay(5*time.Millisecond)), at, 2, nil)
		defer hog.close()
		honest := startNode(t, world.Host(netsim.Delay(5*time.Millisecond)), at, 3, nil)
		defer honest.close()
		for _, n := range []*node{target, hog, honest} {
			n.registered(5 * time.Second)
		}
		const d = 4 * time.Second
		var running sync.WaitGroup
		running.Go(func() { flood(t, hog, target.endpoint.PeerID(), 16, 40e6, d) })
		running.Go(func() { flood(t, honest, target.endpoint.PeerID(), 1, 6e6, d) })
		running.Wait()
		counts.mu.Lock()
		defer counts.mu.Unlock()
		got := float64(counts.bytes[honest.endpoint.PeerID()])
		fair := (got + float64(counts.bytes[hog.endpoint.PeerID()])) / 2
		t.Logf("simulated: honest %.2f Mbit/s, fair share %.2f Mbit/s", got*8/d.Seconds()/1e6, fair*8/d.Seconds()/1e6)
		if got < 0.9*fair || fair*8/d.Seconds() < 3e6 {
			t.Errorf("honest sender got %.2f of the fair share, want 0.9", got/fair)
		}
	})
}

// rawSession opens an ri2n session to the server without a client.
func rawSession(t testing.TB, n *node, at rendezvous.Address) (*ri2n.Session, *ri2n.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	remote := ri2n.Remote{Link: n.link, Addr: netip.MustParseAddrPort(at.HostPort())}
	s, err := n.endpoint.Dial(ctx, at.Peer, remote)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s, st
}

func TestMalformedMessagesCloseThatSessionOnly(t *testing.T) {
	hello := protocol.Append(nil, protocol.Hello{Version: 1})
	register := protocol.Append(nil, protocol.Register{Sequence: 1})
	with := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
		want  rendezvous.Reason
	}{
		{"no hello", register, rendezvous.ReasonProtocol},
		{"unknown kind", with(hello, []byte{0x3f, 0, 0}), rendezvous.ReasonProtocol},
		{"body too long", with(hello, []byte{0x02, 0xff, 0xff}), rendezvous.ReasonProtocol},
		{"body too short", with(hello, []byte{0x02, 0, 1, 7}), rendezvous.ReasonProtocol},
		{"odd channel", with(hello, register, protocol.Append(nil, protocol.Open{Channel: 1})), rendezvous.ReasonProtocol},
		{"answer of a server", with(hello, protocol.Append(nil, protocol.OK{Request: 1})), rendezvous.ReasonProtocol},
		{"version zero", protocol.Append(nil, protocol.Hello{}), rendezvous.ReasonVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 12)
				public := world.Host(netsim.Delay(5 * time.Millisecond))
				s := startServer(t, public, nil)
				defer s.Close()
				at := serverAddress(t, public)
				good := startNode(t, world.Host(), at, 1, nil)
				defer good.close()
				good.registered(5 * time.Second)
				since := good.client.Status().Since
				bad := startNode(t, world.Host(), at, 2, func(cfg *rendezvous.Config) {
					cfg.Dial = func(ctx context.Context) (rendezvous.Session, error) { return nil, errors.New("not used here") }
				})
				defer bad.close()
				sess, st := rawSession(t, bad, at)
				if _, err := st.Write(tt.bytes); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				<-sess.Done()
				var remote *ri2n.RemoteError
				if !errors.As(sess.Err(), &remote) || remote.Code != tt.want.CloseCode() || time.Since(start) > time.Second {
					t.Errorf("session ends after %v with %v, want code %#x", time.Since(start), sess.Err(), tt.want.CloseCode())
				}
				time.Sleep(time.Minute)
				if st := good.client.Status(); !st.Registered || st.Since != since {
					t.Errorf("the other agent suffers: %+v", st)
				}
			})
		})
	}
}

// An agent that says nothing, or half a message, does not stay.
func TestSilentSessionsEnd(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"nothing":        nil,
		"half a message": {0x01, 0x00},
		"only hello":     protocol.Append(nil, protocol.Hello{Version: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 13)
				public := world.Host(netsim.Delay(5 * time.Millisecond))
				s := startServer(t, public, nil)
				defer s.Close()
				at := serverAddress(t, public)
				n := startNode(t, world.Host(), at, 2, func(cfg *rendezvous.Config) {
					cfg.Dial = func(ctx context.Context) (rendezvous.Session, error) { return nil, errors.New("not used here") }
				})
				defer n.close()
				sess, st := rawSession(t, n, at)
				if _, err := st.Write(bytes); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				<-sess.Done()
				if took := time.Since(start); took > 65*time.Second {
					t.Errorf("the session stayed for %v", took)
				}
				var remote *ri2n.RemoteError
				if !errors.As(sess.Err(), &remote) {
					t.Errorf("session ends with %v, want the server's word", sess.Err())
				}
			})
		})
	}
}

func TestSTUNBesideSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 14)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		home := world.NAT(netsim.NAT{Filtering: netsim.AddressAndPortDependent})
		pc := listen(t, home.Host(), 5000)
		defer pc.Close()
		ask := func(port uint16, request []byte) ([]byte, error) {
			t.Helper()
			if _, err := pc.WriteTo(request, net.UDPAddrFromAddrPort(netip.AddrPortFrom(public.Addr(), port))); err != nil {
				t.Fatal(err)
			}
			if err := pc.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2000)
			n, _, err := pc.ReadFrom(buf)
			return buf[:n], err
		}
		var seen []string
		for _, port := range []uint16{3478, 3479} {
			request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
			response, err := ask(port, request.Raw)
			if err != nil || len(response) != 32 {
				t.Fatalf("port %d: %d bytes, %v", port, len(response), err)
			}
			var m stun.Message
			var mapped stun.XORMappedAddress
			if err := stun.Decode(response, &m); err != nil {
				t.Fatal(err)
			}
			if err := mapped.GetFrom(&m); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, mapped.String())
		}
		if seen[0] != seen[1] || seen[0] != fmt.Sprint(netip.AddrPortFrom(home.Addr(), 5000)) {
			t.Errorf("mapped addresses %v", seen)
		}
		// Junk of every first byte gets nothing, save for what looks like a
		// packet of a session that is gone: that may get a stateless reset.
		junk := make([]byte, 200)
		for first := range 256 {
			if first&0xc0 == 0x40 {
				continue
			}
			junk[0] = byte(first)
			binary.BigEndian.PutUint16(junk[2:], 180)
			for _, port := range []uint16{3478, 3479} {
				if _, err := pc.WriteTo(junk, net.UDPAddrFromAddrPort(netip.AddrPortFrom(public.Addr(), port))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if response, err := ask(3478, []byte{0}); err == nil {
			t.Errorf("junk was answered with %x", response)
		}
	})
}

// security.md, section 2: mass reconnect. The issue asks for a smoke count.
func TestManyAgentsComeBack(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: 100 handshakes, three times")
	}
	synctest.Test(t, func(t *testing.T) {
		const agents = 100
		world := netsim.New(t, 15)
		public := world.Host()
		s := startServer(t, public, nil)
		at := serverAddress(t, public)
		host := world.Host(netsim.Delay(5 * time.Millisecond))
		nodes := make([]*node, agents)
		for i := range nodes {
			nodes[i] = startNode(t, host, at, i, nil)
			defer nodes[i].close()
		}
		for _, n := range nodes {
			n.registered(time.Minute)
		}
		s.Close()
		s = startServer(t, public, nil)
		defer s.Close()
		start := time.Now()
		for len(s.Peers()) < agents {
			if time.Since(start) > time.Minute {
				t.Fatalf("%d of %d agents are back after a minute", len(s.Peers()), agents)
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("simulated: %d agents back after %v", agents, time.Since(start))
	})
}

func TestPeerThatComesBackKeepsItsChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 16)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		hostA, hostB := world.Host(), world.Host()
		a := startNode(t, hostA, at, 1, nil)
		defer a.close()
		b := startNode(t, hostB, at, 2, nil)
		defer b.close()
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)
		sess, ch := a.dial(b.endpoint.PeerID())
		roundTrip(t, sess, 1000)

		// For 30 s the network of b is gone.
		if err := world.SetUplink(hostB.Name(), netsim.Link{Cut: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if err := world.SetUplink(hostB.Name(), netsim.Link{}); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, sess, 1000)
		if err := ch.Err(); err != nil {
			t.Errorf("channel: %v", err)
		}
		if got := len(s.Peers()); got != 2 {
			t.Errorf("%d peers registered, want 2", got)
		}
	})
}

func TestPeerThatStaysAwayEndsItsChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 17)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		a := startNode(t, world.Host(), at, 1, nil)
		defer a.close()
		b := startNode(t, world.Host(), at, 2, nil)
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)
		sess, ch := a.dial(b.endpoint.PeerID())
		roundTrip(t, sess, 1000)
		b.close()
		start := time.Now()
		<-ch.Done()
		if took := time.Since(start); !errors.Is(ch.Err(), rendezvous.ErrPeerUnknown) || took > 70*time.Second {
			t.Errorf("channel ends after %v with %v, want ErrPeerUnknown within a minute", took, ch.Err())
		}
	})
}

// A channel asked for before registration opens with it.
func TestChannelOpenedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 18)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		b := startNode(t, world.Host(), at, 2, nil)
		defer b.close()
		b.registered(5 * time.Second)
		a := startNode(t, world.Host(), at, 1, nil)
		defer a.close()
		sess, _ := a.dial(b.endpoint.PeerID())
		roundTrip(t, sess, 1000)
	})
}

// Both sides dial at the same moment, over a channel each.
func TestCrossedDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 19)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		a := startNode(t, world.Host(), at, 1, nil)
		defer a.close()
		b := startNode(t, world.Host(), at, 2, nil)
		defer b.close()
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)
		var both sync.WaitGroup
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			both.Go(func() {
				sess, _ := pair[0].dial(pair[1].endpoint.PeerID())
				roundTrip(t, sess, 50_000)
			})
		}
		both.Wait()
	})
}

// A relay that loses every fifth packet of one home is no reason to give up.
func TestRegistrationSurvivesLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 20)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		a := startNode(t, world.Host(netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.2}), serverAddress(t, public), 1, nil)
		defer a.close()
		a.registered(30 * time.Second)
		time.Sleep(10 * time.Minute)
		a.registered(30 * time.Second)
	})
}
