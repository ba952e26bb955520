package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func startPair(t *testing.T, links ...netsim.Link) *Pair {
	t.Helper()
	p, err := StartPair(1, links...)
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestPairLinks: each link carries what is sent to its address, until it is
// cut.
func TestPairLinks(t *testing.T) {
	slow := netsim.Link{Delay: 5 * time.Millisecond}
	p := startPair(t, netsim.Link{}, slow)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, b := p.Host(0), p.Host(1)
	listen := func(h *Host, at netip.Addr) net.PacketConn {
		t.Helper()
		var pc net.PacketConn
		err := h.Do(func() (err error) {
			var lc net.ListenConfig
			pc, err = lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(at, 0).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		return pc
	}
	buf := make([]byte, 100)
	for i := range 2 {
		from, to := listen(a, p.Addr(0, i)), listen(b, p.Addr(1, i))
		if _, err := from.WriteTo([]byte{byte(i)}, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, source, err := to.ReadFrom(buf)
		if err != nil || n != 1 || buf[0] != byte(i) || source.String() != from.LocalAddr().String() {
			t.Errorf("link %d: got %x from %v, %v", i, buf[:n], source, err)
		}
	}
	if up, _ := p.Counters(1); up.Passed != 1 {
		t.Errorf("packets on link 1 = %d, want 1", up.Passed)
	}
	slow.Cut = true
	if err := p.SetLink(1, slow); err != nil {
		t.Fatal(err)
	}
	from := listen(a, p.Addr(0, 1))
	if _, err := from.WriteTo([]byte{1}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addr(1, 1), 9))); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if up, _ := p.Counters(1); up.Cut == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a cut link counted no packet")
		}
		time.Sleep(time.Millisecond)
	}
	if err := p.SetLink(0, slow); err == nil {
		t.Error("a veth pair took the settings of a wire")
	}
}

func TestPairRefuses(t *testing.T) {
	if _, err := StartPair(1); err == nil {
		t.Error("a pair without links started")
	}
	if _, err := StartPair(1, netsim.Link{Loss: 2}); err == nil {
		t.Error("a pair with a loss of 200 % started")
	}
}
