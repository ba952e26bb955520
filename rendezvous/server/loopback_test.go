package server_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
)

// A loopbackHost gives kernel sockets in place of simulated ones.
type loopbackHost struct{}

func (loopbackHost) Name() string     { return "loopback" }
func (loopbackHost) Addr() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

func (loopbackHost) ListenPacket(ctx context.Context, port uint16) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(loopbackHost{}.Addr(), port).String())
}

func TestRelayOverLoopback(t *testing.T) {
	host := loopbackHost{}
	var sockets []net.PacketConn
	for range 2 {
		sockets = append(sockets, listen(t, host, 0))
	}
	at := serverAddress(t, host)
	at.Port = sockets[0].LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s, err := server.New(server.Config{
		Identity:  identity(t, serverIdentity),
		Listen:    sockets[:1],
		Alternate: sockets[1:],
		Mode:      server.Open,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := startNode(t, host, at, 1, nil)
	defer a.close()
	b := startNode(t, host, at, 2, nil)
	defer b.close()
	a.registered(20 * time.Second)
	b.registered(20 * time.Second)
	sess, _ := a.dial(b.endpoint.PeerID())
	roundTrip(t, sess, 1<<20)
	if got := s.Peers(); len(got) != 2 || got[0].Bytes < 1<<20 || got[1].Bytes < 1<<20 {
		t.Errorf("use of the relay: %+v", got)
	}
	// At once, on both sides: nothing is to linger on the clock of the wall.
	if err := sess.CloseWithError(0x1000, "done"); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); b.sessions.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// A stopped server can be started again on the same port at once.
func TestPortIsFreeAfterClose(t *testing.T) {
	host := loopbackHost{}
	pc := listen(t, host, 0)
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for range 3 {
		s, err := server.New(server.Config{Identity: identity(t, serverIdentity), Listen: []net.PacketConn{pc}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		pc = listen(t, host, port)
	}
	pc.Close()
}

func TestServerNeedsAnIdentityAndASocket(t *testing.T) {
	pc := listen(t, loopbackHost{}, 0)
	if s, err := server.New(server.Config{Listen: []net.PacketConn{pc}}); err == nil {
		s.Close()
		t.Error("a server without identity starts")
	}
	if _, err := pc.WriteTo([]byte{0}, pc.LocalAddr()); err == nil {
		t.Error("the socket is left open")
	}
	if _, err := server.New(server.Config{Identity: identity(t, 1)}); err == nil {
		t.Error("a server without socket starts")
	}
	if _, err := rendezvous.NewClient(rendezvous.Config{}); err == nil {
		t.Error("a client without server starts")
	}
}
