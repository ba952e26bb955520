package overlay

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A badPeer talks ri2n to a node directly, and then whatever it likes.
type badPeer struct {
	t        *testing.T
	endpoint *ri2n.Endpoint
	link     *ri2n.Link
}

func (r *rig) stranger(number int) *badPeer {
	r.t.Helper()
	e, err := ri2n.NewEndpoint(ri2n.Config{Identity: identity(r.t, number)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { e.Close() })
	l, err := e.AddLink("eth0", listenPacket(r.t, r.world.Host(), 0))
	if err != nil {
		r.t.Fatal(err)
	}
	return &badPeer{r.t, e, l}
}

func (s *badPeer) dial(n *Node) *ri2n.Session {
	s.t.Helper()
	session, err := s.endpoint.Dial(s.t.Context(), n.PeerID(), ri2n.Remote{Link: s.link, Addr: n.links.all()[0].local})
	if err != nil {
		s.t.Fatal(err)
	}
	return session
}

// opens writes b on a new stream of a session.
func (s *badPeer) opens(session *ri2n.Session, b []byte) *ri2n.Stream {
	s.t.Helper()
	st, err := session.OpenStream(s.t.Context())
	if err == nil {
		st.Write(b)
	}
	return st // nil: the session has ended
}

// ended returns why the node has closed a session, and after how long.
func ended(t *testing.T, session *ri2n.Session) (code uint64, after time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-session.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the session goes on")
	}
	var remote *ri2n.RemoteError
	if !errors.As(session.Err(), &remote) {
		t.Fatalf("the session ended with %v", session.Err())
	}
	return remote.Code, time.Since(start)
}

var controlHeader = appendHeader(nil, header{network: networkTCP, port: portControl})

// security.md, section 1, rule 10: 5 s, 16 pending sessions, 3 failures for
// each source.
func TestStrangers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		b := r.start(r.world.Host(), 2, nil)
		r.ready(b)
		echo(t, b, ":7000")

		// Without an invitation there is no session at all.
		s := r.stranger(10)
		session := s.dial(b)
		<-session.Done()
		if !errors.Is(session.Err(), ri2n.ErrRefused) {
			t.Errorf("session without invitation ended with %v", session.Err())
		}

		inv, err := b.Invite(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		// Silence.
		session = s.dial(b)
		code, after := ended(t, session)
		if code != closeProof || after > proofTime+100*time.Millisecond {
			t.Errorf("silent stranger: code %#x after %v", code, after)
		}
		// A control stream and silence.
		session = s.dial(b)
		s.opens(session, controlHeader)
		code, after = ended(t, session)
		if code != closeProof || after > proofTime+100*time.Millisecond {
			t.Errorf("stranger without proof: code %#x after %v", code, after)
		}
		// A user's stream waits for the proof, and is never served.
		session = s.dial(b)
		st := s.opens(session, appendHeader(nil, header{network: networkTCP, port: 7000}))
		st.Write([]byte("let me in"))
		st.SetReadDeadline(time.Now().Add(4 * time.Second))
		if n, err := st.Read(make([]byte, 16)); n > 0 {
			t.Errorf("a stranger reads %d bytes, %v", n, err)
		}
		session.Close()
		// More than 16 at once.
		var many []*ri2n.Session
		for i := range maxStrangers + 5 {
			many = append(many, r.stranger(100+i).dial(b))
		}
		time.Sleep(time.Second)
		alive := 0
		for _, x := range many {
			if x.Err() == nil {
				alive++
			}
		}
		if alive != maxStrangers {
			t.Errorf("%d strangers are let wait, want %d", alive, maxStrangers)
		}
		time.Sleep(20 * time.Second)
		// Wrong proofs.
		wrong := appendMessage(append([]byte(nil), controlHeader...), proof{mac: [32]byte{1}})
		for range maxFailures {
			session = s.dial(b)
			s.opens(session, wrong)
			if code, after := ended(t, session); code != closeProof || after > time.Second {
				t.Errorf("wrong proof: code %#x after %v", code, after)
			}
		}
		session = s.dial(b)
		if code, after := ended(t, session); code != closeProof || after > time.Second {
			t.Errorf("fourth try: code %#x after %v", code, after)
		}
		if _, used := inv.Guest(); used {
			t.Error("a wrong proof has pinned a guest")
		}
		// Others still get in.
		guest := r.start(r.hostA, 3, nil)
		p, err := guest.Redeem(t.Context(), inv.Token)
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.Dial(t.Context(), 7000)
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "a guest")
		c.Close()
		b.invitations.mu.Lock()
		n := len(b.invitations.strangers)
		b.invitations.mu.Unlock()
		if n != 0 {
			t.Errorf("%d places of strangers are still taken", n)
		}
	})
}

// An allowed peer that breaks the protocol loses its session, and that alone.
func TestMalformedBytesEndTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		b := r.start(r.world.Host(), 2, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 10).PeerID()} })
		r.ready(b)
		s := r.stranger(10)
		hello := appendMessage(nil, hello{version: 1})
		for name, after := range map[string][]byte{
			"an unknown kind":            {0x3f, 0, 0},
			"a long message":             {0x40, 0xff, 0xff},
			"a report from the wrong":    appendMessage(nil, report{}), // fine from a client
			"a hello of version zero":    appendMessage(nil, hello2(0)),
			"a wrong proof":              appendMessage(nil, proof{}),
			"a policy that is not known": {kindHello, 0, 7, 0, 1, 0, 0, 0, 0, 9},
		} {
			session := s.dial(b)
			s.opens(session, append(append(append([]byte(nil), controlHeader...), hello...), after...))
			if name == "a report from the wrong" {
				time.Sleep(time.Second)
				if session.Err() != nil {
					t.Errorf("a report ends the session: %v", session.Err())
				}
				session.Close()
				continue
			}
			if code, after := ended(t, session); code != closeProtocol && code != closeProof || after > time.Second {
				t.Errorf("%s: code %#x after %v", name, code, after)
			}
		}
		// Random bytes, as control messages and as stream headers.
		random := rand.New(rand.NewPCG(1, 2))
		for range 50 {
			session := s.dial(b)
			junk := make([]byte, 1+random.IntN(300))
			for i := range junk {
				junk[i] = byte(random.Uint32())
			}
			s.opens(session, append(append([]byte(nil), controlHeader...), junk...))
			s.opens(session, junk)
			if st := s.opens(session, junk[:min(len(junk), 3)]); st != nil {
				st.CloseWrite()
			}
			s.opens(session, append(append(append([]byte(nil), controlHeader...), hello...), appendMessage(nil, punchMessage{data: junk})...))
			time.Sleep(50 * time.Millisecond)
			session.Close()
		}
		time.Sleep(15 * time.Second)
		if n := len(b.Status().Peers); n != 0 {
			t.Errorf("%d peers are left", n)
		}
		if b.Status().Counters.Malformed == 0 {
			t.Error("malformed bytes are not counted")
		}
	})
}

func hello2(version uint16) hello { return hello{version: version} }

// A peer that opens streams and says nothing takes a bounded number of places.
func TestSilentStreamsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		b := r.start(r.world.Host(), 2, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 10).PeerID()} })
		r.ready(b)
		echo(t, b, ":7000")
		s := r.stranger(10)
		session := s.dial(b)
		s.opens(session, appendMessage(append([]byte(nil), controlHeader...), hello{version: 1}))
		time.Sleep(time.Second)
		for range maxOpening + 50 {
			s.opens(session, []byte{headerVersion})
		}
		time.Sleep(time.Second)
		if got := b.Status().Counters.StreamsRefused; got != 50 {
			t.Errorf("%d streams refused, want 50", got)
		}
		time.Sleep(headerTime)
		st := s.opens(session, append(appendHeader(nil, header{networkTCP, 7000}), 'x'))
		st.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
			t.Errorf("a good stream after silent ones: %v", err)
		}
	})
}

// A token of one node does not open another, even with its own secret.
func TestProofHoldsForOneSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		b := r.start(r.world.Host(), 2, nil)
		r.ready(b)
		inv, err := b.Invite(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		token, err := rendezvous.ParseToken(inv.Token)
		if err != nil {
			t.Fatal(err)
		}
		s := r.stranger(10)
		first, second := s.dial(b), s.dial(b)
		exporter, err := first.Export(rendezvous.ExporterLabel, nil, 32)
		if err != nil {
			t.Fatal(err)
		}
		good := appendMessage(append([]byte(nil), controlHeader...), proof{mac: rendezvous.Proof(token.PeerKey(), exporter)})
		s.opens(second, good) // replayed into another session
		if code, _ := ended(t, second); code != closeProof {
			t.Errorf("replayed proof: code %#x", code)
		}
		s.opens(first, good)
		if who, err := inv.Wait(t.Context()); who != s.endpoint.PeerID() || err != nil {
			t.Errorf("guest %v, %v", who, err)
		}
	})
}

// Connections behave as package net's do.
func TestNetConn(t *testing.T) {
	b, err := Start(t.Context(), Config{Allow: []ri2n.PeerID{identity(t, 1).PeerID()}, Links: []LinkConfig{{Conn: loopback(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := Start(t.Context(), Config{Identity: identity(t, 1), Links: []LinkConfig{{Conn: loopback(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.remembered.add(time.Now(), b.PeerID(), b.links.all()[0].local)
	ln, err := b.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if c1, err = a.DialContext(ctx, "tcp", ln.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = ln.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func loopback(t *testing.T) net.PacketConn {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return pc
}
