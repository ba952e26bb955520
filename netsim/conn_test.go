package netsim_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestReadTruncates(t *testing.T) {
	world := netsim.New(t, 1)
	a, b := listen(t, world.Host(), 1), listen(t, world.Host(), 1)
	send(t, a, local(b), "first")
	send(t, a, local(b), "")
	send(t, a, local(b), "third")
	buf := make([]byte, 2)
	n, from, err := b.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "fi" || from.(*net.UDPAddr).AddrPort() != local(a) {
		t.Errorf("read %q from %v, error %v; want the first two bytes", buf[:n], from, err)
	}
	if got, _ := receive(t, b); got != "" {
		t.Errorf("read %q, want the empty datagram", got)
	}
	if got, _ := receive(t, b); got != "third" {
		t.Errorf("read %q, want third", got)
	}
}

// A datagram is the network's once it is written.
func TestWriteCopies(t *testing.T) {
	world := netsim.New(t, 1)
	a, b := listen(t, world.Host(), 1), listen(t, world.Host(), 1)
	payload := []byte("before")
	if _, err := a.WriteTo(payload, b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	copy(payload, "after ")
	if got, _ := receive(t, b); got != "before" {
		t.Errorf("read %q, want before", got)
	}
}

func TestHostSendsToItself(t *testing.T) {
	world := netsim.New(t, 1)
	h := world.NAT(netsim.NAT{}).Host(netsim.Link{Cut: true})
	a, b := listen(t, h, 1), listen(t, h, 2)
	echo(t, a, b, local(b))
}

func TestWriteErrors(t *testing.T) {
	world := netsim.New(t, 1)
	a := listen(t, world.Host(), 1)
	to := netip.MustParseAddrPort("5.1.1.10:1")
	for _, tt := range []struct {
		name string
		size int
		to   netip.AddrPort
		want error
	}{
		{"largest", 65507, to, nil},
		{"too large", 65508, to, syscall.EMSGSIZE},
		{"port zero", 1, netip.AddrPortFrom(to.Addr(), 0), syscall.EINVAL},
		{"no address", 1, netip.AddrPort{}, syscall.EINVAL},
		{"IPv6", 1, netip.MustParseAddrPort("[2001:db8::1]:1"), syscall.ENETUNREACH},
		{"IPv4 in IPv6", 1, netip.MustParseAddrPort("[::ffff:5.1.1.10]:1"), nil},
		{"nobody there", 1, netip.MustParseAddrPort("5.200.1.1:1"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := a.WriteToUDPAddrPort(make([]byte, tt.size), tt.to)
			if !errors.Is(err, tt.want) || tt.want == nil && n != tt.size {
				t.Errorf("wrote %d, error %v; want error %v", n, err, tt.want)
			}
			var op *net.OpError
			if err != nil && !errors.As(err, &op) {
				t.Errorf("error %v is no *net.OpError", err)
			}
		})
	}
	for _, addr := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.TCPAddr{}} {
		if _, err := a.WriteTo(nil, addr); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("write to %#v: %v, want EINVAL", addr, err)
		}
	}
}

func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		a, b := listen(t, world.Host(), 1), listen(t, world.Host(), 1)
		start := time.Now()
		read := func() error {
			_, _, err := b.ReadFrom(make([]byte, 10))
			return err
		}
		set := func(after time.Duration) {
			if err := b.SetReadDeadline(start.Add(after)); err != nil {
				t.Fatal(err)
			}
		}
		set(time.Second)
		err := read()
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("error %v, want a time-out", err)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("deadline passed after %v, want 1s", got)
		}
		// It holds until it is moved, even if something can be read.
		send(t, a, local(b), "waiting")
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("second read: %v, want the deadline", err)
		}
		set(time.Hour)
		if err := read(); err != nil {
			t.Errorf("read after moving the deadline: %v", err)
		}
		// Moved while a reader waits, once later and once earlier.
		set(2 * time.Second)
		go func() {
			time.Sleep(100 * time.Millisecond)
			set(10 * time.Second)
			time.Sleep(4 * time.Second)
			set(6 * time.Second)
		}()
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 6*time.Second {
			t.Errorf("error %v after %v, want the deadline at 6s", err, time.Since(start))
		}
		// In the past.
		if err := b.SetDeadline(start); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want the deadline", err)
		}
		if _, err := b.WriteTo(nil, a.LocalAddr()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v, want the deadline", err)
		}
		// None.
		if err := b.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(24 * time.Hour)
			send(t, a, local(b), "at last")
		}()
		if err := read(); err != nil {
			t.Errorf("read without deadline: %v", err)
		}
	})
}

func TestCloseUnblocksReaders(t *testing.T) {
	for _, tt := range []struct {
		name  string
		close func(*netsim.World, udpConn) error
	}{
		{"socket", func(_ *netsim.World, c udpConn) error { return c.Close() }},
		{"network", func(w *netsim.World, _ udpConn) error { return w.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				c := listen(t, world.Host(), 1)
				if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if _, _, err := c.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
							t.Errorf("read: %v, want net.ErrClosed", err)
						}
					})
				}
				synctest.Wait()
				if err := tt.close(world, c); err != nil {
					t.Errorf("close: %v", err)
				}
				wg.Wait()
				if err := c.Close(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("second close: %v, want net.ErrClosed", err)
				}
				if _, err := c.WriteTo(nil, c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write: %v, want net.ErrClosed", err)
				}
				if err := c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("SetDeadline: %v, want net.ErrClosed", err)
				}
			})
		})
	}
}

// What a slow reader does not take is bounded, and counted.
func TestReceiveBuffer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		size  int // of payload
		limit int // zero: default
		want  int // datagrams that fit
	}{
		{"default", 1200, 0, 4 << 20 / (1200 + 128)},
		{"empty datagrams", 0, 0, 4 << 20 / 128},
		{"smaller", 1200, 20_000, 20_000 / (1200 + 128)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			world := netsim.New(t, 1)
			a, b := listen(t, world.Host(), 1), listen(t, world.Host(), 1)
			if tt.limit > 0 {
				if err := b.(interface{ SetReadBuffer(int) error }).SetReadBuffer(tt.limit); err != nil {
					t.Fatal(err)
				}
			}
			payload := make([]byte, tt.size)
			for range tt.want + 10 {
				if _, err := a.WriteToUDPAddrPort(payload, local(b)); err != nil {
					t.Fatal(err)
				}
			}
			want := netsim.Drop{Place: "host2", Cause: netsim.DropReceiveBuffer, Packets: 10}
			if drops := world.Drops(); len(drops) != 1 || drops[0] != want {
				t.Errorf("drops = %v, want %v", drops, want)
			}
			receive(t, b)
			send(t, a, local(b), "")
			if got := world.Stats().Delivered; got != uint64(tt.want)+1 {
				t.Errorf("delivered %d, want %d", got, tt.want+1)
			}
		})
	}
}

func TestEphemeralPorts(t *testing.T) {
	world := netsim.New(t, 1)
	h := world.Host()
	listen(t, h, 49153)
	for _, want := range []uint16{49152, 49154, 49155} {
		if got := local(listen(t, h, 0)).Port(); got != want {
			t.Errorf("port = %d, want %d", got, want)
		}
	}
}

// Many goroutines on many sockets, for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		server := listen(t, world.Host(), 3478)
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				if _, err := server.WriteTo(b[:n], from); err != nil {
					return
				}
			}
		}()
		var wg sync.WaitGroup
		for range 4 {
			home := world.NAT(netsim.NAT{}, netsim.Link{Delay: 10 * time.Millisecond, Jitter: time.Millisecond})
			for range 4 {
				c := listen(t, home.Host(), 5000)
				wg.Go(func() {
					for range 50 {
						send(t, c, local(server), "ping")
						receive(t, c)
					}
				})
			}
			wg.Go(func() {
				for range 20 {
					home.Mappings()
					world.Stats()
					world.Drops()
					if err := world.SetUplink(home.Name(), netsim.Link{Delay: time.Millisecond}); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		if st := world.Stats(); st.Dropped != 0 || st.InFlight != 0 || st.Sent != 4*4*50*2 {
			t.Errorf("stats = %+v", st)
		}
	})
}

func TestRebootOfRunningNAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		home := world.NAT(netsim.NAT{})
		a, b := listen(t, home.Host(), 5000), listen(t, world.Host(), 3478)
		seen := echo(t, a, b, local(b))
		if err := world.Reboot(home.Name()); err != nil {
			t.Fatal(err)
		}
		if got := home.Mappings(); got != 0 {
			t.Errorf("mappings = %d, want none", got)
		}
		send(t, b, seen, "late")
		nothing(t, a, time.Second)
		if err := world.Reboot("host1"); err == nil {
			t.Error("a host was rebooted as a NAT")
		}
	})
}
