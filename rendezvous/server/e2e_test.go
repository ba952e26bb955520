package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity number n, the same in each run.
func identity(t testing.TB, n int) *ri2n.Identity {
	t.Helper()
	seed := sha256.Sum256(fmt.Append(nil, "test identity ", n))
	id, err := ri2n.IdentityFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const serverIdentity = 1000

func listen(t testing.TB, h netsim.Host, port uint16) net.PacketConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// startServer runs a rendezvous on h until it is closed.
func startServer(t testing.TB, h netsim.Host, change func(*server.Config)) *server.Server {
	t.Helper()
	cfg := server.Config{
		Identity:  identity(t, serverIdentity),
		Listen:    []net.PacketConn{listen(t, h, 3478)},
		Alternate: []net.PacketConn{listen(t, h, 3479)},
		Mode:      server.Open,
	}
	if change != nil {
		change(&cfg)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serverAddress(t testing.TB, h netsim.Host) rendezvous.Address {
	return rendezvous.Address{Host: h.Addr().String(), Port: 3478, Peer: identity(t, serverIdentity).PeerID()}
}

// A node is an agent as far as these tests need one: an endpoint with one
// link, registered at a rendezvous, that echoes what peers say to it.
type node struct {
	t        testing.TB
	endpoint *ri2n.Endpoint
	link     *ri2n.Link
	client   *rendezvous.Client
	stop     context.CancelFunc
	ended    chan struct{}
	sessions atomic.Int32 // accepted and not over
}

func startNode(t testing.TB, h netsim.Host, at rendezvous.Address, number int, change func(*rendezvous.Config)) *node {
	t.Helper()
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{
		Identity:  identity(t, number),
		Authorize: func(ri2n.PeerID) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	link, err := endpoint.AddLink("eth0", listen(t, h, 0))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, endpoint: endpoint, link: link, ended: make(chan struct{})}
	cfg := rendezvous.Config{
		Server:    at,
		Endpoint:  endpoint,
		Links:     func() []*ri2n.Link { return []*ri2n.Link{link} },
		OnChannel: n.attach,
		Rand:      rand.New(rand.NewPCG(1, uint64(number))),
	}
	if change != nil {
		change(&cfg)
	}
	n.client, err = rendezvous.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	go n.echo(ctx)
	return n
}

func (n *node) attach(ch *rendezvous.Channel) {
	link, err := n.endpoint.AddCarrier("relay", ch)
	if err != nil {
		ch.Close()
		return
	}
	ch.Attach(link.Deliver)
}

// echo returns what comes on every stream of every session.
func (n *node) echo(ctx context.Context) {
	defer close(n.ended)
	for {
		s, err := n.endpoint.Accept(ctx)
		if err != nil {
			return
		}
		n.sessions.Add(1)
		go func() {
			defer n.sessions.Add(-1)
			for {
				st, err := s.AcceptStream(context.Background())
				if err != nil {
					return
				}
				go func() {
					io.Copy(st, st)
					st.CloseWrite()
					st.Close()
				}()
			}
		}()
	}
}

func (n *node) close() {
	n.t.Helper()
	if err := n.client.Close(); err != nil {
		n.t.Error(err)
	}
	n.stop()
	if err := n.endpoint.Close(); err != nil {
		n.t.Error(err)
	}
	<-n.ended
}

// registered fails unless the node is within d.
func (n *node) registered(d time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := n.client.Wait(ctx); err != nil {
		n.t.Fatal(err)
	}
}

// dial opens a session to peer through the relay.
func (n *node) dial(peer ri2n.PeerID) (*ri2n.Session, *rendezvous.Channel) {
	n.t.Helper()
	ch, err := n.client.OpenChannel(peer)
	if err != nil {
		n.t.Fatal(err)
	}
	link, err := n.endpoint.AddCarrier("relay", ch)
	if err != nil {
		n.t.Fatal(err)
	}
	ch.Attach(link.Deliver)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := n.endpoint.Dial(ctx, peer, ri2n.Remote{Link: link})
	if err != nil {
		n.t.Fatalf("dial %s through the relay: %v (channel: %v)", peer.Short(), err, ch.Err())
	}
	return s, ch
}

// roundTrip sends size bytes on a stream of s and compares what comes back.
func roundTrip(t testing.TB, s *ri2n.Session, size int) {
	t.Helper()
	st, err := s.OpenStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(size), 0))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	sent := make(chan error, 1)
	go func() {
		_, err := st.Write(data)
		if err == nil {
			err = st.CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(st)
	if err != nil {
		t.Errorf("read echo after %d of %d bytes: %v", len(got), size, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("write: %v", err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("echo of %d bytes differs (%d came back)", size, len(got))
	}
}

var hardNAT = netsim.NAT{
	Mapping:    netsim.AddressAndPortDependent,
	Filtering:  netsim.AddressAndPortDependent,
	Allocation: netsim.Random,
}

func TestTwoHomesTalkThroughTheRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		public := world.Host()
		s := startServer(t, public, nil)
		defer s.Close()
		home1 := world.NAT(hardNAT, netsim.Delay(10*time.Millisecond))
		home2 := world.NAT(hardNAT, netsim.Delay(10*time.Millisecond))
		a := startNode(t, home1.Host(), serverAddress(t, public), 1, nil)
		defer a.close()
		b := startNode(t, home2.Host(), serverAddress(t, public), 2, nil)
		defer b.close()
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)

		st := a.client.Status()
		if st.Observed.Addr() != home1.Addr() {
			t.Errorf("observed %v, want an address of %v", st.Observed, home1.Addr())
		}
		want := []netip.AddrPort{netip.AddrPortFrom(public.Addr(), 3478), netip.AddrPortFrom(public.Addr(), 3479)}
		if fmt.Sprint(st.STUN) != fmt.Sprint(want) || st.RTT != 20*time.Millisecond {
			t.Errorf("STUN %v, RTT %v; want %v, 20ms", st.STUN, st.RTT, want)
		}

		start := time.Now()
		sess, ch := a.dial(b.endpoint.PeerID())
		// One relay round trip: out 20 ms, back 20 ms.
		if took := time.Since(start); took > 45*time.Millisecond {
			t.Errorf("the session was up after %v, want one relay round trip of 40ms", took)
		}
		roundTrip(t, sess, 1<<20)
		if got := ch.MaxDatagram(); got < 1100 || got > 1472 {
			t.Errorf("the channel takes %d bytes", got)
		}
		sess.Close()
	})
}

func TestRestartedServerIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 2)
		public := world.Host()
		s := startServer(t, public, nil)
		a := startNode(t, world.NAT(hardNAT).Host(netsim.Delay(5*time.Millisecond)), serverAddress(t, public), 1, nil)
		defer a.close()
		b := startNode(t, world.NAT(hardNAT).Host(netsim.Delay(5*time.Millisecond)), serverAddress(t, public), 2, nil)
		defer b.close()
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)
		sess, ch := a.dial(b.endpoint.PeerID())
		roundTrip(t, sess, 10_000)

		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if a.client.Status().Registered || a.client.Status().LastError == nil {
			t.Errorf("status without a server: %+v", a.client.Status())
		}
		s = startServer(t, public, nil)
		defer s.Close()
		a.registered(20 * time.Second)
		b.registered(20 * time.Second)

		// The session through the relay has survived.
		roundTrip(t, sess, 100_000)
		if err := ch.Err(); err != nil {
			t.Errorf("the channel has ended: %v", err)
		}
	})
}

func TestKilledServerIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 3)
		public := world.Host()
		s := startServer(t, public, nil)
		a := startNode(t, world.NAT(hardNAT).Host(netsim.Delay(5*time.Millisecond)), serverAddress(t, public), 1, nil)
		defer a.close()
		a.registered(5 * time.Second)
		// Killed: its last words reach nobody.
		if err := world.SetUplink(public.Name(), netsim.Link{Cut: true}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := world.SetUplink(public.Name(), netsim.Link{}); err != nil {
			t.Fatal(err)
		}
		s = startServer(t, public, nil)
		defer s.Close()
		start := time.Now()
		for len(s.Peers()) == 0 && time.Since(start) < 2*time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("registered again after %v, want within 30s", took)
		}
	})
}

// members is a change of configuration.
func members(ids ...*ri2n.Identity) func(*server.Config) {
	return func(cfg *server.Config) {
		cfg.Mode = server.Members
		for _, id := range ids {
			cfg.Members = append(cfg.Members, id.PeerID())
		}
	}
}

func TestStrangerIsRefusedAndToldWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 4)
		public := world.Host(netsim.Delay(10 * time.Millisecond))
		s := startServer(t, public, members(identity(t, 1)))
		defer s.Close()
		stranger := startNode(t, world.Host(), serverAddress(t, public), 2, nil)
		defer stranger.close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := stranger.client.Wait(ctx)
		var refused *rendezvous.RefusedError
		if !errors.As(err, &refused) || !errors.Is(err, rendezvous.ErrNotAdmitted) {
			t.Fatalf("Wait = %v, want a RefusedError that is ErrNotAdmitted", err)
		}
		line := "join a grid that it keeps (grid join TOKEN), or ask the operator to add this line to the members file: " + identity(t, 2).PeerID().String()
		if refused.Next() != line {
			t.Errorf("next: %q, want %q", refused.Next(), line)
		}
		// The operator does so, and the client finds out by itself.
		s.SetMembers([]ri2n.PeerID{identity(t, 2).PeerID()})
		time.Sleep(10 * time.Second)
		if !stranger.client.Status().Registered {
			t.Errorf("not registered 10 s after having been added: %v", stranger.client.Status().LastError)
		}
	})
}

func TestTokenGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 5)
		public := world.Host(netsim.Delay(10 * time.Millisecond))
		at := serverAddress(t, public)
		s := startServer(t, public, members(identity(t, 1), identity(t, 3)))
		defer func() { s.Close() }()
		sender := startNode(t, world.NAT(hardNAT).Host(), at, 1, nil)
		defer sender.close()
		member := startNode(t, world.Host(), at, 3, nil)
		defer member.close()
		sender.registered(5 * time.Second)
		member.registered(5 * time.Second)

		token, err := rendezvous.NewToken(bytes.NewReader(make([]byte, 16)), at, sender.endpoint.PeerID(), time.Now().Add(5*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := sender.client.Deposit(ctx, token); err != nil {
			t.Fatal(err)
		}
		show := func(k rendezvous.Key) func(*rendezvous.Config) {
			return func(cfg *rendezvous.Config) { cfg.AdmitKey = k }
		}
		refused := func(name string, number int, k rendezvous.Key, want rendezvous.Reason) {
			t.Helper()
			n := startNode(t, world.Host(), at, number, show(k))
			defer n.close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := n.client.Wait(ctx)
			var e *rendezvous.RefusedError
			if !errors.As(err, &e) || e.Reason != want {
				t.Errorf("%s: %v, want a refusal for %v", name, err, want)
			}
		}
		refused("wrong token", 4, rendezvous.Key{1}, rendezvous.ReasonTokenUnknown)

		guest := startNode(t, world.NAT(hardNAT).Host(), at, 2, show(token.AdmitKey()))
		defer guest.close()
		guest.registered(10 * time.Second)
		sess, _ := guest.dial(sender.endpoint.PeerID())
		roundTrip(t, sess, 100_000)

		ch, err := guest.client.OpenChannel(member.endpoint.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		<-ch.Done()
		if !errors.Is(ch.Err(), rendezvous.ErrNotAdmitted) {
			t.Errorf("guest to another member: %v, want ErrNotAdmitted", ch.Err())
		}
		refused("used token", 5, token.AdmitKey(), rendezvous.ReasonTokenUsed)

		// After a restart the sender deposits again and the guest shows again.
		s.Close()
		s = startServer(t, public, members(identity(t, 1), identity(t, 3)))
		sender.registered(time.Minute)
		start := time.Now()
		for !guest.client.Status().Registered && time.Since(start) < time.Minute {
			time.Sleep(time.Second)
		}
		guest.registered(time.Second)
		roundTrip(t, sess, 10_000)

		time.Sleep(5 * time.Minute)
		refused("expired token", 6, token.AdmitKey(), rendezvous.ReasonTokenExpired)
		if guest.client.Status().Registered {
			t.Error("the guest is still registered after its token's life")
		}
	})
}

func TestUnknownPeerEndsTheChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 6)
		public := world.Host(netsim.Delay(10 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		a := startNode(t, world.Host(), serverAddress(t, public), 1, nil)
		defer a.close()
		a.registered(5 * time.Second)
		ch, err := a.client.OpenChannel(identity(t, 77).PeerID())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-ch.Done()
		if took := time.Since(start); took > 25*time.Millisecond {
			t.Errorf("told after %v, want one round trip", took)
		}
		if !errors.Is(ch.Err(), rendezvous.ErrPeerUnknown) {
			t.Errorf("channel to nobody ends with %v, want ErrPeerUnknown", ch.Err())
		}
		if err := ch.Send([]byte{0x40}); !errors.Is(err, rendezvous.ErrPeerUnknown) {
			t.Errorf("Send = %v", err)
		}
	})
}

func TestUnreachableServerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 7)
		public := world.Host()
		a := startNode(t, world.Host(), serverAddress(t, public), 1, nil)
		defer a.close()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		err := a.client.Wait(ctx)
		var unreachable *rendezvous.UnreachableError
		if !errors.As(err, &unreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Wait = %v, want an UnreachableError that is DeadlineExceeded", err)
		}
		ch, err := a.client.OpenChannel(identity(t, 2).PeerID())
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.Send([]byte{0x40}); !errors.Is(err, rendezvous.ErrNotRegistered) {
			t.Errorf("Send without a server = %v, want ErrNotRegistered", err)
		}
		start := time.Now()
		<-ch.Done()
		if took := time.Since(start); !errors.As(ch.Err(), &unreachable) || took < time.Minute || took > 80*time.Second {
			t.Errorf("channel ends after %v with %v, want an UnreachableError after a minute", took, ch.Err())
		}
	})
}

func TestWrongKeyIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 8)
		public := world.Host()
		s := startServer(t, public, nil)
		defer s.Close()
		at := serverAddress(t, public)
		at.Peer = identity(t, 99).PeerID()
		a := startNode(t, world.Host(), at, 1, nil)
		defer a.close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := a.client.Wait(ctx)
		var unreachable *rendezvous.UnreachableError
		if !errors.As(err, &unreachable) {
			t.Fatalf("Wait = %v, want an UnreachableError", err)
		}
	})
}

// ri2n.md, section 7: the relayed size is re-derived when the outer changes.
func TestChannelFollowsThePathMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 9)
		public := world.Host(netsim.Delay(5 * time.Millisecond))
		s := startServer(t, public, nil)
		defer s.Close()
		hostA, hostB := world.Host(), world.Host()
		a := startNode(t, hostA, serverAddress(t, public), 1, nil)
		defer a.close()
		b := startNode(t, hostB, serverAddress(t, public), 2, nil)
		defer b.close()
		a.registered(5 * time.Second)
		b.registered(5 * time.Second)
		sess, ch := a.dial(b.endpoint.PeerID())
		roundTrip(t, sess, 300_000)
		time.Sleep(30 * time.Second)
		wide := ch.MaxDatagram()
		if wide <= 1200 {
			t.Errorf("on paths of 1500 bytes the channel takes %d", wide)
		}
		for _, h := range []netsim.Host{hostA, hostB} {
			if err := world.SetUplink(h.Name(), netsim.Link{MTU: 1240}); err != nil {
				t.Fatal(err)
			}
		}
		// Nothing may get stuck on packets that no longer pass.
		roundTrip(t, sess, 300_000)
		time.Sleep(30 * time.Second)
		roundTrip(t, sess, 300_000)
	})
}
