package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A fakeRouter answers on port 5351 of a host beside the client's. Its fields
// are set before the client starts, or by the client's goroutine's answers.
type fakeRouter struct {
	pc      net.PacketConn
	answer  func(request []byte) [][]byte
	delay   time.Duration
	asked   int
	removed int
}

func (f *fakeRouter) serve() {
	buf := make([]byte, 2048)
	for {
		n, from, err := f.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		b := append([]byte(nil), buf[:n]...)
		if n == pcpMapLen && binary.BigEndian.Uint32(b[4:]) == 0 || n == 12 && binary.BigEndian.Uint32(b[8:]) == 0 {
			f.removed++
		}
		f.asked++
		time.Sleep(f.delay)
		for _, a := range f.answer(b) {
			f.pc.WriteTo(a, from)
		}
	}
}

// A bench is a client's host and a fake router on one simulated network.
type bench struct {
	router *fakeRouter
	host   netsim.Host
	began  time.Time
	cfg    Config
}

func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		gateway, host := world.Host(), world.Host()
		pc, err := gateway.ListenPacket(t.Context(), routerPort)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{router: &fakeRouter{pc: pc}, host: host, began: time.Now()}
		b.router.answer = b.pcp(outside, 7200)
		done := make(chan struct{})
		go func() { b.router.serve(); close(done) }()
		b.cfg = Config{
			Route:  func() (netip.Addr, netip.AddrPort) { return gateway.Addr(), netip.AddrPortFrom(host.Addr(), 40000) },
			Listen: func(netip.Addr) (net.PacketConn, error) { return host.ListenPacket(context.Background(), 0) },
			Only:   []Protocol{PCP, NATPMP},
		}
		f(t, b)
		pc.Close()
		<-done
	})
}

func (b *bench) seconds() uint32 { return 1000 + uint32(time.Since(b.began)/time.Second) }

// pcp is a good PCP server with one outside address.
func (b *bench) pcp(outside netip.AddrPort, lifetime uint32) func([]byte) [][]byte {
	return func(request []byte) [][]byte {
		if request[0] != pcpVersion {
			return nil
		}
		l := lifetime
		if binary.BigEndian.Uint32(request[4:]) == 0 {
			l = 0
		}
		return [][]byte{pcpAnswer(request, 0, l, b.seconds(), outside)}
	}
}

// natpmp is a good NAT-PMP server, which answers PCP as one does.
func (b *bench) natpmp(outside netip.AddrPort) func([]byte) [][]byte {
	return func(request []byte) [][]byte {
		switch {
		case request[0] != natpmpVersion:
			return [][]byte{natpmpAnswer(0, b.seconds())[:8], {0, 128, 0, 1, 0, 0, 0, 0}}
		case request[1] == natpmpAddress:
			ip := outside.Addr().As4()
			return [][]byte{natpmpAnswer(natpmpAddress, b.seconds(), ip[:]...)}
		}
		reply := natpmpAnswer(natpmpMapUDP, b.seconds(), request[4:8]...)
		reply = append(reply, request[8:12]...)
		binary.BigEndian.PutUint16(reply[10:], outside.Port())
		return [][]byte{reply}
	}
}

func start(t *testing.T, b *bench) *Client {
	t.Helper()
	c, err := Start(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMapsRenewsAndRemoves(t *testing.T) {
	for _, protocol := range []Protocol{PCP, NATPMP} {
		t.Run(string(protocol), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				if protocol == NATPMP {
					b.router.answer = b.natpmp(outside)
				}
				changes, verified := 0, 0
				b.cfg.Changed = func() { changes++ }
				b.cfg.Verify = func(context.Context, netip.AddrPort) error { verified++; return nil }
				c := start(t, b)
				time.Sleep(2 * time.Second)
				if st := c.Status(); st.Outside != outside || st.Protocol != protocol || st.Err != nil {
					t.Fatalf("status %+v", st)
				}
				asked := b.router.asked
				time.Sleep(59 * time.Minute)
				if b.router.asked != asked {
					t.Errorf("%d requests before half the lifetime", b.router.asked-asked)
				}
				time.Sleep(10 * time.Hour)
				if st := c.Status(); st.Outside != outside || c.Counters().Renewed != 10 || verified != 1 || changes != 1 {
					t.Errorf("%+v, %+v, verified %d times, changed %d times", st, c.Counters(), verified, changes)
				}
				c.Close()
				c.Close()
				if b.router.removed != 1 || c.Outside().IsValid() || c.Counters().Unremoved != 0 {
					t.Errorf("removed %d times; outside %v", b.router.removed, c.Outside())
				}
			})
		})
	}
}

// Bad servers: none of them gives an address, and each is counted.
func TestBadRouters(t *testing.T) {
	addr := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	unverified := errors.New("nothing came in")
	for _, tt := range []struct {
		name    string
		answer  func(b *bench) func([]byte) [][]byte
		verify  error
		delay   time.Duration
		want    error
		counted func(c Counters) uint64
	}{
		{"private outside", func(b *bench) func([]byte) [][]byte { return b.pcp(addr("192.168.0.2:4000"), 7200) }, nil, 0, errPrivate, func(c Counters) uint64 { return c.Refused }},
		{"carrier-grade outside", func(b *bench) func([]byte) [][]byte { return b.pcp(addr("100.64.3.2:4000"), 7200) }, nil, 0, errPrivate, func(c Counters) uint64 { return c.Refused }},
		{"loopback outside", func(b *bench) func([]byte) [][]byte { return b.pcp(addr("127.0.0.1:4000"), 7200) }, nil, 0, nil, func(c Counters) uint64 { return c.Refused }},
		{"multicast outside", func(b *bench) func([]byte) [][]byte { return b.pcp(addr("239.1.1.1:4000"), 7200) }, nil, 0, nil, func(c Counters) uint64 { return c.Refused }},
		{"service port outside", func(b *bench) func([]byte) [][]byte { return b.pcp(addr("5.1.1.10:53"), 7200) }, nil, 0, nil, func(c Counters) uint64 { return c.Refused }},
		{"no lifetime", func(b *bench) func([]byte) [][]byte { return b.pcp(outside, 0) }, nil, 0, errNoLifetime, func(c Counters) uint64 { return c.Refused }},
		{"not proved", func(b *bench) func([]byte) [][]byte { return b.pcp(outside, 7200) }, unverified, 0, unverified, func(c Counters) uint64 { return c.Refused }},
		{"late", func(b *bench) func([]byte) [][]byte { return b.pcp(outside, 7200) }, nil, 20 * time.Second, ErrNotOffered, func(c Counters) uint64 { return c.Failed }},
		{"silent", func(b *bench) func([]byte) [][]byte { return func([]byte) [][]byte { return nil } }, nil, 0, ErrNotOffered, func(c Counters) uint64 { return c.Failed }},
		{"garbage", func(b *bench) func([]byte) [][]byte {
			return func(r []byte) [][]byte { return [][]byte{{}, {2}, make([]byte, 1400), r} }
		}, nil, 0, ErrNotOffered, func(c Counters) uint64 { return c.Malformed }},
		{"flood", func(b *bench) func([]byte) [][]byte {
			return func(r []byte) [][]byte {
				list := make([][]byte, 2*maxIgnored)
				for i := range list {
					list[i] = []byte("flood")
				}
				return list
			}
		}, nil, 0, ErrNotOffered, func(c Counters) uint64 { return c.Malformed }},
		{"another's nonce", func(b *bench) func([]byte) [][]byte {
			good := b.pcp(outside, 7200)
			return func(r []byte) [][]byte {
				list := good(r)
				if len(r) == pcpMapLen {
					list[0][30] ^= 1
				}
				return list
			}
		}, nil, 0, ErrNoAnswer, func(c Counters) uint64 { return c.Malformed }},
		{"refusal", func(b *bench) func([]byte) [][]byte {
			return func(r []byte) [][]byte {
				if r[0] != pcpVersion || len(r) < pcpMapLen {
					return b.pcp(outside, 0)(r)
				}
				return [][]byte{pcpAnswer(r, 2, 1800, b.seconds(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0))}
			}
		}, nil, 0, nil, func(c Counters) uint64 { return c.Failed }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.router.answer, b.router.delay = tt.answer(b), tt.delay
				if tt.verify != nil {
					b.cfg.Verify = func(context.Context, netip.AddrPort) error { return tt.verify }
				}
				c := start(t, b)
				defer c.Close()
				time.Sleep(25 * time.Second)
				st := c.Status()
				if st.Outside.IsValid() || st.Err == nil || tt.want != nil && !errors.Is(st.Err, tt.want) {
					t.Errorf("status %+v, want the error %v", st, tt.want)
				}
				if tt.counted(c.Counters()) == 0 {
					t.Errorf("not counted: %+v", c.Counters())
				}
				// A router that gives nothing is left alone.
				asked := b.router.asked
				time.Sleep(12 * time.Hour)
				if n := b.router.asked - asked; n > 200 {
					t.Errorf("%d requests in twelve hours", n)
				}
			})
		})
	}
}

// An answer from another address than was asked is not looked at, however right
// it looks.
func TestAnswerFromElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		good := b.pcp(outside, 7200)
		other, err := b.host.ListenPacket(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		b.router.answer = func([]byte) [][]byte { return nil }
		listen := b.cfg.Listen
		b.cfg.Only = []Protocol{PCP}
		b.cfg.Listen = func(a netip.Addr) (net.PacketConn, error) {
			pc, err := listen(a)
			if err == nil {
				go func() {
					time.Sleep(time.Millisecond)
					for _, answer := range good(appendPCPRequest(nil, pcpAnnounce, 0, a)) {
						other.WriteTo(answer, pc.LocalAddr())
					}
				}()
			}
			return pc, err
		}
		c := start(t, b)
		defer c.Close()
		time.Sleep(10 * time.Second)
		if st := c.Status(); !errors.Is(st.Err, ErrNotOffered) || c.Counters().Strangers == 0 {
			t.Errorf("status %+v, counters %+v", st, c.Counters())
		}
	})
}

// A router that restarts is noticed at the next answer, and the address proved
// again; one that is away keeps the mapping until its end.
func TestRouterRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		verified := 0
		b.cfg.Verify = func(context.Context, netip.AddrPort) error { verified++; return nil }
		c := start(t, b)
		defer c.Close()
		time.Sleep(30 * time.Minute)
		b.began = time.Now().Add(990 * time.Second) // its clock shows 10 s
		c.Refresh()
		time.Sleep(10 * time.Second)
		if c.Counters().Restarts != 1 || verified != 2 || c.Outside() != outside {
			t.Errorf("%+v, verified %d times, outside %v", c.Counters(), verified, c.Outside())
		}

		b.began = time.Now()
		b.router.answer = func([]byte) [][]byte { return nil }
		time.Sleep(90 * time.Minute)
		if st := c.Status(); st.Outside != outside || !errors.Is(st.Err, ErrNoAnswer) {
			t.Errorf("before the end: %+v", st)
		}
		time.Sleep(time.Hour)
		if st := c.Status(); st.Outside.IsValid() {
			t.Errorf("after the end: %+v", st)
		}
		b.router.answer = b.pcp(outside, 7200)
		time.Sleep(3 * time.Hour)
		if st := c.Status(); st.Outside != outside {
			t.Errorf("when it is back: %+v", st)
		}
	})
}

// Without a router nothing is sent; a changed one is asked.
func TestRouteChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		route, there := b.cfg.Route, false
		b.cfg.Route = func() (netip.Addr, netip.AddrPort) {
			if !there {
				return netip.Addr{}, netip.AddrPort{}
			}
			return route()
		}
		c := start(t, b)
		defer c.Close()
		time.Sleep(20 * time.Second)
		if st := c.Status(); !errors.Is(st.Err, ErrNoRouter) || b.router.asked != 0 {
			t.Errorf("status %+v, asked %d times", st, b.router.asked)
		}
		there = true
		c.Refresh()
		time.Sleep(10 * time.Second)
		if c.Outside() != outside {
			t.Errorf("status %+v", c.Status())
		}
	})
}

func TestLook(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.router.answer = b.natpmp(netip.MustParseAddrPort("10.0.0.1:4000"))
		offers, _ := Look(t.Context(), b.cfg)
		var refused *PCPError
		if len(offers) != 2 || !errors.As(offers[0].Err, &refused) || !errors.Is(offers[1].Err, errPrivate) {
			t.Errorf("offers %+v", offers)
		}
		if b.router.removed != 0 {
			t.Error("it made and removed a mapping")
		}
	})
}
