package hostnet

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func startPair(t *testing.T) *kernel.Pair {
	t.Helper()
	p, err := kernel.StartPair(1, netsim.Link{})
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// largestMean sends some TCP from a to b and returns the mean size of what b's
// device received.
func largestMean(t *testing.T, p *kernel.Pair) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ln, err := p.Host(1).Listen(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	c, err := p.Host(0).Dial(ctx, netip.MustParseAddrPort(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := <-received; got != size {
		t.Fatalf("received %d bytes, want %d", got, size)
	}
	var bytes, packets uint64
	err = p.Host(1).Do(func() error {
		link, err := netlink.LinkByName(kernel.PairDevice(0))
		if err != nil {
			return err
		}
		packets = link.Attrs().Statistics.RxPackets
		bytes, err = Received(kernel.PairDevice(0))
		return err
	})
	if err != nil || packets == 0 || bytes < size {
		t.Fatalf("device received %d bytes in %d packets, %v", bytes, packets, err)
	}
	return bytes / packets
}

func TestDisableOffloads(t *testing.T) {
	const frame = 1514 // of an MTU of 1500
	if got := largestMean(t, startPair(t)); got <= frame {
		t.Skipf("packets of %d bytes on average: this kernel's veth has no offloads to turn off", got)
	}
	p := startPair(t)
	for end := range 2 {
		if err := p.Host(end).Do(func() error { return DisableOffloads(kernel.PairDevice(0)) }); err != nil {
			t.Fatal(err)
		}
	}
	if got := largestMean(t, p); got > frame {
		t.Errorf("packets of %d bytes on average, want at most %d", got, frame)
	}
}

func TestNoSuchDevice(t *testing.T) {
	p := startPair(t)
	if err := p.Host(0).Do(func() error { return DisableOffloads("nothing0") }); err == nil {
		t.Error("the offloads of a device that is not there were turned off")
	}
	if err := p.Host(0).Do(func() error { _, err := Received("nothing0"); return err }); err == nil {
		t.Error("a device that is not there received")
	}
}

func TestSubflows(t *testing.T) {
	p := startPair(t)
	var found error
	if err := p.Host(0).Do(func() error { _, found = netlink.GenlFamilyGet(multipathFamily); return nil }); err != nil {
		t.Fatal(err)
	}
	if found != nil {
		t.Skipf("no Multipath TCP on this kernel: %v", found)
	}
	if err := p.Host(0).Do(func() error { return AllowSubflows(2) }); err != nil {
		t.Error(err)
	}
	if err := p.Host(1).Do(func() error { return Announce(p.Addr(1, 0), 1) }); err != nil {
		t.Error(err)
	}
	// One identifier names one address.
	if err := p.Host(1).Do(func() error { return Announce(netip.MustParseAddr("192.0.2.1"), 1) }); err == nil {
		t.Error("two addresses have one identifier")
	}
}
