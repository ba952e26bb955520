package punch

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/netsim"
)

// serveSTUN answers Binding requests on two ports of h until the bubble ends,
// and returns the ports' addresses.
func serveSTUN(t *testing.T, h netsim.Host) []netip.AddrPort {
	t.Helper()
	var servers []netip.AddrPort
	for _, port := range []uint16{3478, 3479} {
		pc := listen(t, h, port)
		servers = append(servers, netip.AddrPortFrom(h.Addr(), port))
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				m := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
				if m.Decode() != nil || m.Type != stun.BindingRequest {
					continue
				}
				addr := from.(*net.UDPAddr)
				answer, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
					&stun.XORMappedAddress{IP: addr.IP, Port: addr.Port})
				if err != nil {
					t.Errorf("build answer: %v", err)
					return
				}
				if len(answer.Raw) > n {
					t.Errorf("answer of %d bytes to a request of %d", len(answer.Raw), n)
				}
				pc.WriteTo(answer.Raw, from)
			}
		}()
	}
	return servers
}

func listen(t *testing.T, h netsim.Host, port uint16) net.PacketConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// A node is one host with a mux, its gathered link, and an agent.
type node struct {
	mux   *Mux
	link  Link
	agent *Agent

	mu      sync.Mutex
	pairs   []Pair
	results []Result
	reasons []Reason
	at      map[Stage]time.Time // first time of each stage
	ended   time.Time
}

func newNode(t *testing.T, h netsim.Host, servers []netip.AddrPort, filter Filter) *node {
	t.Helper()
	m, err := NewMux(listen(t, h, 0), MuxConfig{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	n := &node{mux: m, at: make(map[Stage]time.Time)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	n.link = Link{ID: 1, Mux: m}
	n.link.Candidates, n.link.Behavior = m.Gather(ctx, []netip.AddrPort{m.LocalAddr()}, servers)
	return n
}

// connect gives both nodes agents whose messages take oneWay. a controls.
func connect(t *testing.T, a, b *node, oneWay, rtt time.Duration) {
	t.Helper()
	other := map[*node]*node{a: b, b: a}
	for n, peer := range other {
		agent, err := NewAgent(AgentConfig{
			Peer:        "peer",
			Controlling: n == a,
			Links:       func() []Link { return []Link{n.link} },
			RTT:         func() time.Duration { return rtt },
			Signaler: SignalFunc(func(msg []byte) error {
				msg = append([]byte(nil), msg...)
				time.AfterFunc(oneWay, func() { peer.agent.Receive(msg) })
				return nil
			}),
			OnPair: func(p Pair) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.pairs = append(n.pairs, p)
				if n.at[p.Stage].IsZero() {
					n.at[p.Stage] = time.Now()
				}
			},
			OnResult: func(r Result) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.results = append(n.results, r)
				n.ended = time.Now()
			},
			OnReason: func(r Reason) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.reasons = append(n.reasons, r)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		n.agent = agent
		t.Cleanup(func() { agent.Close() })
	}
}

// last returns the newest result, which must exist.
func (n *node) last(t *testing.T) Result {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.results) == 0 {
		t.Fatal("no result")
	}
	return n.results[len(n.results)-1]
}

// seen returns copies of what the callbacks got.
func (n *node) seen() (pairs []Pair, reasons []Reason, at map[Stage]time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.pairs), slices.Clone(n.reasons), maps.Clone(n.at)
}

// punchOnce runs one attempt to its end.
func punchOnce(t *testing.T, a, b *node) {
	t.Helper()
	if err := a.agent.Punch(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(15 * time.Second)
	synctest.Wait()
}

// behaviorOf spells a simulated NAT's type in punch's terms.
func behaviorOf(n netsim.NATType) Behavior {
	spell := map[netsim.Behavior]Dependence{
		netsim.EndpointIndependent:     EndpointIndependent,
		netsim.AddressDependent:        AddressDependent,
		netsim.AddressAndPortDependent: AddressAndPortDependent,
	}
	return Behavior{Mapping: spell[n.Mapping], Filtering: spell[n.Filtering]}
}

// randomNAT is a NAT of a type, with ports that cannot be guessed.
func randomNAT(n netsim.NATType) netsim.NAT {
	return netsim.NAT{Mapping: n.Mapping, Filtering: n.Filtering, Allocation: netsim.Random}
}

// homes makes two homes, a STUN server, and connected nodes in the homes: 20 ms
// for each round trip between a home and the core.
func homes(t *testing.T, seed uint64, x, y netsim.NAT) (a, b *node, homeA, homeB *netsim.Home) {
	t.Helper()
	world := netsim.New(t, seed)
	servers := serveSTUN(t, world.Host())
	servers = append(servers, serveSTUN(t, world.Host())...)
	access := netsim.Delay(10 * time.Millisecond)
	homeA, homeB = world.NAT(x, access), world.NAT(y, access)
	a = newNode(t, homeA.Host(), servers, Filter{})
	b = newNode(t, homeB.Host(), servers, Filter{})
	connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
	return a, b, homeA, homeB
}

// TestMatrix runs ICE over all 45 pairs of NAT types and compares the outcome
// with the rule, the two spellings of the rule, and both ends with each other.
func TestMatrix(t *testing.T) {
	types := netsim.NATTypes()
	direct := 0
	for i, x := range types {
		for _, y := range types[i:] {
			t.Run(x.String()+" "+y.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b, _, _ := homes(t, 1, randomNAT(x), randomNAT(y))
					punchOnce(t, a, b)
					ra, rb := a.last(t), b.last(t)
					if (ra.Reason == Direct) != (rb.Reason == Direct) {
						t.Fatalf("a says %q, b says %q", ra.Reason, rb.Reason)
					}
					want := netsim.DirectPossible(x, y)
					if got := ra.Reason == Direct; got != want {
						t.Errorf("direct = %v, want %v", got, want)
					}
					rule := Explain(behaviorOf(x), behaviorOf(y))
					if (rule == Direct) != want {
						t.Errorf("Explain = %q, want direct %v", rule, want)
					}
					if back := Explain(behaviorOf(y), behaviorOf(x)); back != rule {
						t.Errorf("Explain the other way round = %q, want %q", back, rule)
					}
					if ra.Reason != rb.Reason {
						t.Errorf("reasons differ: %q and %q", ra.Reason, rb.Reason)
					}
					if ra.Reason != Direct && ra.Reason != rule {
						t.Errorf("reason = %q, want %q", ra.Reason, rule)
					}
					for n, nat := range map[*node]netsim.NATType{a: x, b: y} {
						if got, want := n.link.Behavior.Mapping, behaviorOf(nat).Mapping; got != want {
							t.Errorf("mapping measured as %v, want %v", got, want)
						}
					}
					if want {
						direct++
					}
				})
			})
		}
	}
	if direct != 23 {
		t.Errorf("%d of 45 pairs are direct, want 23", direct)
	}
}

// TestTimeToPair measures port-restricted homes at 40 ms round trip, direct and
// through the relay.
func TestTimeToPair(t *testing.T) {
	restricted := netsim.NAT{Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}
	for _, tt := range []struct {
		name                   string
		rtt                    time.Duration // as told; zero: unknown
		heard, valid, selected time.Duration // at most, from the offer on
	}{
		// Offer and answer take one round trip, the checks half of one to
		// arrive and one to be answered; nomination takes one more.
		{"round trip known", 40 * time.Millisecond, 65 * time.Millisecond, 85 * time.Millisecond, 180 * time.Millisecond},
		// Half a round trip more for START.
		{"round trip unknown", 0, 85 * time.Millisecond, 105 * time.Millisecond, 200 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, _, _ := homes(t, 1, restricted, restricted)
				a.agent.Close()
				b.agent.Close()
				connect(t, a, b, 20*time.Millisecond, tt.rtt)
				start := time.Now()
				punchOnce(t, a, b)
				for name, n := range map[string]*node{"a": a, "b": b} {
					if r := n.last(t).Reason; r != Direct {
						t.Fatalf("%s: reason %q", name, r)
					}
					_, _, at := n.seen()
					for stage, limit := range map[Stage]time.Duration{Heard: tt.heard, Valid: tt.valid, Selected: tt.selected} {
						got := at[stage].Sub(start)
						t.Logf("%s: %v after %v", name, stage, got)
						if at[stage].IsZero() || got > limit {
							t.Errorf("%s: %v after %v, want at most %v", name, stage, got, limit)
						}
					}
				}
			})
		})
	}
}

// listenOn opens further sockets of a host.
func listenOn(h netsim.Host) func() (net.PacketConn, error) {
	return func() (net.PacketConn, error) { return h.ListenPacket(context.Background(), 0) }
}

func netUDP(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }
