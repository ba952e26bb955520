package ri2n

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"golang.org/x/sys/unix"
)

// TestKernelForgedTooBig: somebody tells the kernel that the path carries 68
// to 1280 bytes only (CVE-2024-53259). The PLPMTU stays what probes have
// found, and data go on.
func TestKernelForgedTooBig(t *testing.T) {
	if err := kernel.Check(); errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	pair, err := kernel.StartPair(1, netsim.Link{})
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	link := func(e *Endpoint, host int) *Link {
		pc, err := pair.Host(host).ListenPacket(t.Context(), 7000)
		if err != nil {
			t.Fatal(err)
		}
		l, err := e.AddLink("veth", pc)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	la, lb := link(a, 0), link(b, 1)
	to := linkAddr(lb)
	if to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(pair.Addr(1, 0), to.Port())
	}
	client, server := connectSessions(t, a, b, Remote{Link: la, Addr: to})
	exchange(t, client, server, 1<<20)
	largest := func() int { return client.Paths()[0].MTU }
	for range 100 { // until the search has ended
		if largest() > 1400 {
			break
		}
		exchange(t, client, server, 64<<10)
		time.Sleep(20 * time.Millisecond)
	}
	found := largest()
	if found < 1400 {
		t.Fatalf("PLPMTU = %d over a veth pair of 1500", found)
	}
	var raw int
	err = pair.Host(1).Do(func() (err error) {
		raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	from := pair.Addr(0, 0).As4()
	for _, mtu := range []uint16{68, 296, 552, 576, 1000, 1040, 1200, 1280} {
		for range 20 {
			if err := unix.Sendto(raw, tooBig(mtu, pair.Addr(0, 0), to, 7000), 0, &unix.SockaddrInet4{Addr: from}); err != nil {
				t.Fatal(err)
			}
		}
		exchange(t, client, server, 256<<10)
		if got := largest(); got != found {
			t.Errorf("PLPMTU = %d after a forged next-hop MTU of %d, want %d", got, mtu, found)
		}
	}
	if got := client.Paths()[0].PacketsLost; got > 200 {
		t.Errorf("packets lost = %d", got)
	}
	client.Close()
	server.Close()
}

// tooBig is an ICMP Destination Unreachable, fragmentation needed (RFC 1191),
// about a datagram from the victim's port at source to the peer.
func tooBig(mtu uint16, source netip.Addr, peer netip.AddrPort, port uint16) []byte {
	b := make([]byte, 8+28)
	b[0], b[1] = 3, 4
	binary.BigEndian.PutUint16(b[6:], mtu)
	ip := b[8:]
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 1480)
	s, d := source.As4(), peer.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], ^checksum(ip[:20]))
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint16(ip[22:], peer.Port())
	binary.BigEndian.PutUint16(ip[24:], 1460)
	binary.BigEndian.PutUint16(b[2:], ^checksum(b))
	return b
}

// checksum is the sum of RFC 1071, not complemented.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
