package overlay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// refusedWith dials and expects an error of type E that explains itself.
func dialError(t *testing.T, n *Node, to ri2n.PeerID) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	c, err := n.DialContext(ctx, "tcp", Addr{to, 7000}.String())
	if err == nil {
		// The handshake was over before the refusal came.
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	t.Logf("after %v: %v", time.Since(start), err)
	var e Explained
	if !errors.As(err, &e) || e.Object() == "" || e.Cause() == "" || e.Next() == "" {
		t.Fatalf("dial error %v explains nothing", err)
	}
	return err
}

func TestNobodyIsAllowedByDefault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, nil)
		b := r.start(r.hostB, 2, nil)
		r.ready(a, b)
		echo(t, b, ":7000")
		err := dialError(t, a, b.PeerID())
		var refused *PeerError
		if !errors.As(err, &refused) || refused.Cause() != "it does not accept us" {
			t.Errorf("dial = %v, want a refusal", err)
		}
		if got := len(b.Status().Peers); got != 0 {
			t.Errorf("b has %d peers, want none", got)
		}
		if err := b.Allow(a.PeerID()); err != nil {
			t.Fatal(err)
		}
		c := dial(t, a, b.PeerID(), 7000)
		says(t, c, "now it is allowed")
		c.Close()
		if id, ok := PeerOf(c); !ok || id != b.PeerID() {
			t.Errorf("PeerOf = %v, %v", id, ok)
		}
		// It was one-sided: b may not be dialed by a third one, nor a by b.
		third := r.start(r.homeA.Host(), 3, nil)
		r.ready(third)
		dialError(t, third, b.PeerID())
	})
}

func TestUnknownPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, nil)
		r.ready(a)
		err := dialError(t, a, identity(t, 77).PeerID())
		if !errors.Is(err, rendezvous.ErrPeerUnknown) {
			t.Errorf("dial = %v, want ErrPeerUnknown", err)
		}
	})
}

// A remembered address at which somebody else answers by now must not do.
func TestWrongPeerAtARememberedAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, func(c *Config) { c.Rendezvous = "" })
		b := r.start(r.world.Host(), 2, func(c *Config) { c.Rendezvous = ""; c.Allow = []ri2n.PeerID{a.PeerID()} })
		other := identity(t, 77).PeerID()
		a.remembered.add(time.Now(), other, b.links.all()[0].local)
		err := dialError(t, a, other)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial = %v", err)
		}
	})
}

// Without a rendezvous the addresses that worked before are dialed.
func TestRememberedAddressNeedsNoRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newRig(t, 1, restricted, restricted)
		public := r.world.Host()
		a := r.start(r.hostA, 1, func(c *Config) { c.Dir = dir })
		b := r.start(public, 2, func(c *Config) { c.Allow = []ri2n.PeerID{a.PeerID()} })
		r.ready(a, b)
		echo(t, b, ":7000")
		c := dial(t, a, b.PeerID(), 7000)
		waitDirect(t, a, b)
		c.Close()
		a.Close()
		r.server.Close()
		time.Sleep(time.Minute)
		a = r.start(r.hostA, 1, func(c *Config) { c.Dir = dir })
		start := time.Now()
		c = dial(t, a, b.PeerID(), 7000)
		says(t, c, "no rendezvous")
		t.Logf("echo after %v", time.Since(start))
		if got := pathOf(t, a, b.PeerID()); got.Kind != KindDirect {
			t.Errorf("path = %+v, want direct", got)
		}
		c.Close()
	})
}

func TestUnreachableRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		r.server.Close()
		a := r.start(r.hostA, 1, nil)
		err := dialError(t, a, identity(t, 2).PeerID())
		var unreachable *rendezvous.UnreachableError
		if !errors.As(err, &unreachable) {
			t.Errorf("dial = %v, want an UnreachableError", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Ready(ctx); !errors.As(err, &unreachable) {
			t.Errorf("Ready = %v, want an UnreachableError", err)
		}
		if st := a.Status().Rendezvous; st.Registered {
			t.Errorf("status %+v", st)
		}
	})
}

func TestNoRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, func(c *Config) { c.Rendezvous = "" })
		if err := a.Ready(t.Context()); err != nil {
			t.Errorf("Ready = %v, want nil", err)
		}
		var none *NoWayError
		if err := dialError(t, a, identity(t, 2).PeerID()); !errors.As(err, &none) {
			t.Errorf("dial = %v, want a NoWayError", err)
		}
		if _, err := a.Invite(t.Context(), time.Hour); !errors.As(err, &none) {
			t.Errorf("Invite = %v, want a NoWayError", err)
		}
	})
}

func TestPortRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		c := dial(t, a, b.PeerID(), 9)
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		var port *PortError
		if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &port) || port.Port != 9 {
			t.Errorf("read = %v, want ECONNREFUSED", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("write = %v, want ECONNREFUSED", err)
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Addr.String() != (Addr{b.PeerID(), 9}).String() {
			t.Errorf("error %v does not name the address", err)
		}
	})
}

// A server that speaks first is heard without a byte from the client.
func TestServerSpeaksFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":25")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Listen("tcp", ":25"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second Listen = %v, want EADDRINUSE", err)
		}
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 ready")
			c.Close()
		}()
		c := dial(t, a, b.PeerID(), 25)
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(c)
		if string(got) != "220 ready" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want net.ErrClosed", err)
		}
	})
}

func TestBacklogIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		var conns []net.Conn
		for range backlog + 10 {
			conns = append(conns, dial(t, a, b.PeerID(), 7000))
		}
		time.Sleep(time.Second)
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNREFUSED) {
				refused++
			}
		}
		if refused != 10 {
			t.Errorf("%d connections refused, want 10", refused)
		}
		ln.Close()
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("read after the listener closed = %v, want ECONNREFUSED", err)
			}
			c.Close()
		}
	})
}

func TestConcurrentDialsShareOneAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		echo(t, b, ":7000")
		done := make(chan error)
		for range 20 {
			go func() {
				c, err := a.DialContext(t.Context(), "tcp", Addr{b.PeerID(), 7000}.String())
				if err == nil {
					c.Close()
				}
				done <- err
			}()
		}
		for range 20 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := a.Status().Counters.Dials; got != 1 {
			t.Errorf("%d dials, want 1", got)
		}
	})
}

// Crossed dials: both sessions are valid, and one of them stays.
func TestCrossedDials(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 2).PeerID()} })
		b := r.start(r.hostB, 2, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 1).PeerID()} })
		r.ready(a, b)
		echo(t, a, ":7000")
		echo(t, b, ":7000")
		conns := make(chan net.Conn, 2)
		go func() { conns <- dial(t, a, b.PeerID(), 7000) }()
		go func() { conns <- dial(t, b, a.PeerID(), 7000) }()
		x, y := <-conns, <-conns
		says(t, x, "crossed")
		says(t, y, "crossed")
		time.Sleep(30 * time.Second)
		if got := len(a.peerByID(b.PeerID()).all()); got != 2 {
			t.Errorf("%d sessions while both have streams, want 2", got)
		}
		says(t, x, "both live")
		says(t, y, "both live")
		x.Close()
		y.Close()
		time.Sleep(30 * time.Second)
		for n, other := range map[*Node]*Node{a: b, b: a} {
			left := n.peerByID(other.PeerID()).all()
			if len(left) != 1 {
				t.Fatalf("%d sessions in the end, want 1", len(left))
			}
			lower := min(a.PeerID().String(), b.PeerID().String())
			if clientIsLower := left[0].client == (n.PeerID().String() == lower); !clientIsLower {
				t.Error("the session whose client has the higher peer ID stayed")
			}
		}
		z := dial(t, a, b.PeerID(), 7000)
		says(t, z, "one is left")
		z.Close()
	})
}

func TestCloseDuringDial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		echo(t, b, ":7000")
		failed := make(chan error)
		go func() {
			_, err := a.DialContext(t.Context(), "tcp", Addr{b.PeerID(), 7000}.String())
			failed <- err
		}()
		time.Sleep(10 * time.Millisecond)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; err == nil {
			t.Error("a dial succeeds on a closed node")
		}
		if _, err := a.DialContext(t.Context(), "tcp", Addr{b.PeerID(), 7000}.String()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial = %v, want net.ErrClosed", err)
		}
		if _, err := a.Listen("tcp", ":1"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen = %v, want net.ErrClosed", err)
		}
	})
}

// What was written before Close arrives.
func TestCloseDelivers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan int)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				got <- -1
				return
			}
			b, _ := io.ReadAll(c)
			got <- len(b)
			c.Close()
		}()
		c := dial(t, a, b.PeerID(), 7000)
		c.Write(make([]byte, 100_000))
		c.Close()
		a.Close()
		if n := <-got; n != 100_000 {
			t.Errorf("%d bytes arrived, want 100000", n)
		}
	})
}

func TestToken(t *testing.T) {
	for _, mode := range []server.Mode{server.Members, server.Open} {
		t.Run(mode.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				r := newRig(t, 1, restricted, restricted)
				r.server.Close()
				r.mode, r.members = mode, []ri2n.PeerID{identity(t, 1).PeerID()}
				r.startServer()
				maker := r.start(r.hostA, 1, func(c *Config) { c.Dir = dir })
				r.ready(maker)
				echo(t, maker, ":7000")
				inv, err := maker.Invite(t.Context(), time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				redeem := func(n *Node, token string) (*Peer, error) {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					return n.Redeem(ctx, token)
				}

				// Somebody without the token's secret.
				wrong, err := rendezvous.ParseToken(inv.Token)
				if err != nil {
					t.Fatal(err)
				}
				wrong.Secret[0] ^= 1
				thief := r.start(r.homeB.Host(), 5, func(c *Config) { c.Rendezvous = "" })
				if _, err := redeem(thief, wrong.Encode()); err == nil {
					t.Error("a wrong token is redeemed")
				} else {
					t.Log(err)
				}
				if _, used := inv.Guest(); used {
					t.Fatal("a wrong token has pinned a guest")
				}

				// The guest.
				guest := r.start(r.hostB, 2, func(c *Config) { c.Rendezvous = "" })
				start := time.Now()
				p, err := redeem(guest, inv.Token)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("redeemed after %v", time.Since(start))
				if who, err := inv.Wait(t.Context()); who != guest.PeerID() || err != nil {
					t.Errorf("guest = %v, %v", who, err)
				}
				c, err := p.Dial(t.Context(), 7000)
				if err != nil {
					t.Fatal(err)
				}
				says(t, c, "a guest")
				waitDirect(t, guest, maker)
				c.Close()

				// A second user of the token.
				second := r.start(r.homeB.Host(), 3, func(c *Config) { c.Rendezvous = "" })
				if _, err := redeem(second, inv.Token); err == nil {
					t.Error("a token is redeemed twice")
				} else {
					t.Log(err)
					var e Explained
					if !errors.As(err, &e) {
						t.Errorf("%v explains nothing", err)
					}
				}

				// The guest comes again, the maker too.
				guest.Close()
				maker.Close()
				maker = r.start(r.hostA, 1, func(c *Config) { c.Dir = dir })
				r.ready(maker)
				echo(t, maker, ":7000")
				open := maker.Invitations()
				if len(open) != 1 || open[0].Token != inv.Token {
					t.Fatalf("%d invitations after a restart, want the one", len(open))
				}
				if who, ok := open[0].Guest(); !ok || who != identity(t, 2).PeerID() {
					t.Errorf("guest after a restart = %v, %v", who, ok)
				}
				guest = r.start(r.hostB, 2, func(c *Config) { c.Rendezvous = "" })
				if p, err = redeem(guest, inv.Token); err != nil {
					t.Fatalf("after a restart of both: %v", err)
				}
				if c, err = p.Dial(t.Context(), 7000); err != nil {
					t.Fatal(err)
				}
				says(t, c, "a guest again")
				c.Close()

				// Closed for good.
				if err := open[0].Close(); err != nil {
					t.Error(err)
				}
				guest.Close()
				synctest.Wait()
				time.Sleep(2 * time.Minute)
				guest = r.start(r.hostB, 2, func(c *Config) { c.Rendezvous = "" })
				if _, err := redeem(guest, inv.Token); err == nil {
					t.Error("a closed invitation is redeemed")
				} else {
					t.Log(err)
				}
				if left, _ := os.ReadDir(filepath.Join(dir, folderTokens)); len(left) != 0 {
					t.Errorf("%d invitation files left", len(left))
				}
			})
		})
	}
}

func TestTokenExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		maker := r.start(r.hostA, 1, nil)
		r.ready(maker)
		inv, err := maker.Invite(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var expired *rendezvous.TokenError
		if _, err := inv.Wait(t.Context()); !errors.As(err, &expired) {
			t.Errorf("Wait = %v, want an expired token", err)
		}
		time.Sleep(10 * time.Second)
		guest := r.start(r.hostB, 2, nil)
		if _, err := guest.Redeem(t.Context(), inv.Token); !errors.As(err, &expired) {
			t.Errorf("Redeem = %v, want an expired token", err)
		}
		if n := len(maker.Invitations()); n != 0 {
			t.Errorf("%d invitations open", n)
		}
	})
}
