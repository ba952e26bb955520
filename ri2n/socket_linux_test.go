package ri2n

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// kernelPair returns a socket and one that reads what arrives there: its
// datagrams come out of the returned function, one each.
func kernelPair(t *testing.T, network string, ip net.IP) (from, to *kernelSocket, next func() ([]byte, netip.AddrPort)) {
	t.Helper()
	listen := func() *kernelSocket {
		pc, err := net.ListenUDP(network, &net.UDPAddr{IP: ip})
		if err != nil {
			t.Skipf("no socket at %v: %v", ip, err)
		}
		return newSocket(pc).(*kernelSocket)
	}
	from, to = listen(), listen()
	e := newTestEndpoint(t)
	l := addSocket(t, e, to)
	t.Cleanup(func() { from.close() })
	other := l.Other()
	other.SetReadDeadline(time.Now().Add(30 * time.Second))
	return from, to, func() ([]byte, netip.AddrPort) {
		t.Helper()
		buf := make([]byte, 1<<16)
		n, addr, err := other.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n], addrPortOf(addr)
	}
}

// Bursts arrive as the datagrams that they are made of, in order, whoever cuts
// them up, over IPv4, IPv6, and IPv4 on a socket of both.
func TestKernelSocketBursts(t *testing.T) {
	loopback4, loopback6 := net.IPv4(127, 0, 0, 1), net.IPv6loopback
	for _, tt := range []struct {
		name    string
		network string
		ip      net.IP
		dest    string // other than the socket's address
		whole   bool
		noGSO   bool
		size    int
		count   int
		last    int // size of the last datagram
	}{
		{"cut by the kernel", "udp4", loopback4, "", true, false, 1200, 40, 300},
		{"one by one", "udp4", loopback4, "", false, false, 1200, 64, 1200},
		{"without offload", "udp4", loopback4, "", true, true, 1200, 50, 7},
		{"more than one call", "udp4", loopback4, "", false, false, 100, 150, 100},
		{"a single one", "udp4", loopback4, "", true, false, 1200, 1, 900},
		{"large", "udp4", loopback4, "", true, false, 16000, 4, 10},
		{"IPv6", "udp6", loopback6, "", true, false, 1200, 40, 300},
		{"IPv6 one by one", "udp6", loopback6, "", false, false, 1200, 40, 300},
		{"IPv4 on a socket of both", "udp", net.IPv6unspecified, "127.0.0.1", true, false, 1200, 40, 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to, next := kernelPair(t, tt.network, tt.ip)
			if tt.noGSO {
				from.gso.Store(false)
			}
			dest := addrPortOf(to.localAddr())
			if tt.dest != "" {
				dest = netip.AddrPortFrom(netip.MustParseAddr(tt.dest), dest.Port())
			}
			burst := make([]byte, 0, tt.size*tt.count)
			for i := range tt.count {
				size := tt.size
				if i == tt.count-1 {
					size = tt.last
				}
				d := bytes.Repeat([]byte{byte(i) & 0x3f}, size) // not RI2N
				binary.BigEndian.PutUint16(d[1:], uint16(i))
				burst = append(burst, d...)
			}
			if err := from.write(burst, tt.size, dest, tt.whole); err != nil {
				t.Fatal(err)
			}
			for i := range tt.count {
				d, addr := next()
				size := tt.size
				if i == tt.count-1 {
					size = tt.last
				}
				if len(d) != size || int(binary.BigEndian.Uint16(d[1:])) != i || d[len(d)-1] != byte(i)&0x3f && len(d) > 3 {
					t.Fatalf("datagram %d has %d bytes and number %d, want %d bytes", i, len(d), binary.BigEndian.Uint16(d[1:]), size)
				}
				if want := addrPortOf(from.localAddr()).Port(); addr.Port() != want || addr.Addr() != dest.Addr() {
					t.Fatalf("datagram %d is from %v, want port %d of %v", i, addr, want, dest.Addr())
				}
			}
			if tt.whole && !tt.noGSO && tt.count > 1 && !from.gso.Load() {
				t.Log("this kernel does not cut up bursts")
			}
		})
	}
}

// A destination of the wrong family is an error and nothing else.
func TestKernelSocketRefuses(t *testing.T) {
	from, to, next := kernelPair(t, "udp4", net.IPv4(127, 0, 0, 1))
	b := []byte{1, 2, 3}
	for _, dest := range []netip.AddrPort{{}, netip.MustParseAddrPort("[2001:db8::1]:9")} {
		if err := from.write(b, len(b), dest, true); err == nil {
			t.Errorf("write to %v succeeds", dest)
		}
	}
	if err := from.write(nil, 1200, addrPortOf(to.localAddr()), true); err != nil {
		t.Errorf("write of nothing = %v", err)
	}
	if err := from.write(b, len(b), addrPortOf(to.localAddr()), true); err != nil {
		t.Fatal(err)
	}
	if d, _ := next(); !bytes.Equal(d, b) {
		t.Errorf("got %x, want %x", d, b)
	}
}

// Bursts from several goroutines do not mix.
func TestKernelSocketIsConcurrent(t *testing.T) {
	from, to, next := kernelPair(t, "udp4", net.IPv4(127, 0, 0, 1))
	const writers, bursts, each = 4, 3, 10 // fewer than Other queues
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			burst := bytes.Repeat([]byte{byte(w)}, each*500)
			for range bursts {
				if err := from.write(burst, 500, addrPortOf(to.localAddr()), w%2 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	var got [writers]int
	for range writers * bursts * each {
		d, _ := next()
		if len(d) != 500 || bytes.Count(d, d[:1]) != 500 || int(d[0]) >= writers {
			t.Fatalf("a datagram of %d bytes begins with %x", len(d), d[:4])
		}
		got[d[0]]++
	}
	for w, n := range got {
		if n != bursts*each {
			t.Errorf("writer %d: %d datagrams arrived, want %d", w, n, bursts*each)
		}
	}
}

// A batch of buffers grows while reads fill it, and is given back when they no
// longer do.
func TestReadBatchAdapts(t *testing.T) {
	type read struct{ n, largest, want int }
	for _, tt := range []struct {
		name  string
		reads []read
	}{
		{"packets", []read{{1, 1200, 2}, {2, 1200, 4}, {4, 1200, 8}, {8, 1200, 16}, {16, 1200, 32}, {32, 1200, 32}}},
		{"merged messages", []read{{1, 60000, 2}, {2, 60000, 4}, {4, 60000, 4}}},
		{"merging begins", []read{{1, 1200, 2}, {2, 1200, 4}, {4, 1200, 8}, {3, 60000, 4}}},
		{"not full", []read{{1, 1200, 2}, {1, 1200, 2}, {1, 1200, 2}}},
	} {
		b := &readBatch{hdrs: make([]mmsghdr, maxReadBatch), msgs: make([]message, maxReadBatch), bufs: make([][]byte, maxReadBatch)}
		b.resize(1)
		for i, r := range tt.reads {
			if b.adapt(r.n, r.largest); b.want != r.want {
				t.Errorf("%s: read %d: the next asks for %d, want %d", tt.name, i, b.want, r.want)
			}
		}
		for range 6 * quietReads {
			b.adapt(0, 0)
		}
		if b.want != 1 || b.bufs[1] != nil {
			t.Errorf("%s: a quiet socket keeps %d buffers", tt.name, b.want)
		}
	}
}

// FuzzReadSplit takes apart messages with any control data, as the kernel
// might hand them over: nothing is lost, and nothing read that was not received.
func FuzzReadSplit(f *testing.F) {
	e := newTestEndpoint(keepTB{f})
	f.Cleanup(func() { e.Close() })
	r := &receiver{endpoint: e, link: newLink(e, "fuzz")}
	r.link.other = newOtherConn(r.link)
	b := &readBatch{r: r, hdrs: make([]mmsghdr, maxReadBatch), msgs: make([]message, maxReadBatch), bufs: make([][]byte, maxReadBatch)}
	b.resize(1)
	f.Fuzz(func(t *testing.T, control, data []byte) {
		size := segmentSize(bytes.Clone(control)) // of any length; must not read beyond it
		m, h := &b.msgs[0], &b.hdrs[0]
		clear(m.control[:])
		n := copy(m.control[:], control)
		h.hdr.SetControllen(n)
		if n < len(control) {
			size = segmentSize(m.control[:])
		}
		data = bytes.Clone(data[:min(len(data), maxOtherQueue)]) // what Other keeps, if each byte is a datagram
		for i := range data {
			data[i] &= 0x3f // not RI2N: it comes out of Other
		}
		h.len = uint32(copy(b.bufs[0], data))
		b.split(0)

		var got []byte
		for {
			d, ok := r.link.other.pop()
			if !ok {
				break
			}
			if size > 0 && len(d.data) > size || len(d.data) == 0 {
				t.Fatalf("a datagram of %d bytes, where each has %d", len(d.data), size)
			}
			got = append(got, d.data...)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%x in segments of %d came out as %x", data, size, got)
		}
	})
}
