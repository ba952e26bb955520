package punch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/netsim"
)

var (
	restricted = netsim.NAT{Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}
	open       = netsim.NAT{Allocation: netsim.Random}
	symmetric  = netsim.NAT{Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}
)

// expectDirect checks that both ends ended direct, at each other's outside
// address.
func expectDirect(t *testing.T, a, b *node, outsideA, outsideB netip.Addr) {
	t.Helper()
	for _, end := range []struct {
		name string
		n    *node
		want netip.Addr
	}{{"a", a, outsideB}, {"b", b, outsideA}} {
		r := end.n.last(t)
		if r.Reason != Direct || r.Remote.Addr() != end.want {
			t.Errorf("%s: %q toward %v, want direct toward %v", end.name, r.Reason, r.Remote, end.want)
		}
	}
}

// TestPairsComeInOrder: the caller hears of a working address early, and the
// selected one is among those.
func TestPairsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, homeA, homeB := homes(t, 1, restricted, restricted)
		punchOnce(t, a, b)
		expectDirect(t, a, b, homeA.Addr(), homeB.Addr())
		for name, n := range map[string]*node{"a": a, "b": b} {
			var stages []Stage
			pairs, _, _ := n.seen()
			for _, p := range pairs {
				stages = append(stages, p.Stage)
				if p.Link != 1 || p.PeerLink != 1 || p.Generation != 1 || p.Remote != n.last(t).Remote {
					t.Errorf("%s: pair %+v", name, p)
				}
			}
			if want := []Stage{Heard, Valid, Selected}; !slices.Equal(stages, want) {
				t.Errorf("%s: stages %v, want %v", name, stages, want)
			}
			if s := n.mux.Stats(); s.Refused+s.UnknownResponse+s.NotSTUN != 0 {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}

// TestNothingArrivesEarly: neither side's first check may reach the other's
// NAT before that one sent its own, whatever the relay's delay. Of what was
// sent, everything arrives.
func TestNothingArrivesEarly(t *testing.T) {
	for _, relay := range []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 150 * time.Millisecond} {
		for _, known := range []time.Duration{0, 1} {
			t.Run(fmt.Sprintf("relay=%v/known=%d", relay, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b, _, _ := homes(t, 1, restricted, restricted)
					connect(t, a, b, relay, known*2*relay)
					punchOnce(t, a, b)
					got := a.mux.Stats().Received + b.mux.Stats().Received
					want := a.mux.Stats().Sent + b.mux.Stats().Sent
					if got != want || a.last(t).Reason != Direct {
						t.Errorf("%d of %d datagrams arrived, reason %q", got, want, a.last(t).Reason)
					}
				})
			})
		}
	}
}

// TestCarrierNAT: one home is behind a second NAT, as at many carriers.
func TestCarrierNAT(t *testing.T) {
	for _, tt := range []struct {
		name    string
		carrier netsim.NAT
		want    Reason
	}{
		{"endpoint-independent mapping", restricted, Direct},
		{"mapping by destination", symmetric, MappingAndFiltering},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				servers := append(serveSTUN(t, world.Host()), serveSTUN(t, world.Host())...)
				access := netsim.Delay(5 * time.Millisecond)
				carrier := world.NAT(tt.carrier, access)
				home := world.NAT(restricted, access)
				a := newNode(t, carrier.NAT(restricted, access).Host(), servers, Filter{})
				b := newNode(t, home.Host(), servers, Filter{})
				connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
				punchOnce(t, a, b)
				if tt.want == Direct {
					expectDirect(t, a, b, carrier.Addr(), home.Addr())
				} else if ra, rb := a.last(t).Reason, b.last(t).Reason; ra != tt.want || rb != tt.want {
					t.Errorf("reasons %q and %q, want %q", ra, rb, tt.want)
				}
			})
		})
	}
}

// TestLossySignallingAndPath: messages and checks may be lost, repeated and
// reordered.
func TestLossySignallingAndPath(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, seed)
				servers := serveSTUN(t, world.Host())
				lossy := netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.15, Duplicate: 0.1}
				homeA, homeB := world.NAT(restricted, lossy), world.NAT(restricted, lossy)
				a := newNode(t, homeA.Host(), servers, Filter{})
				b := newNode(t, homeB.Host(), servers, Filter{})
				// With the round trip unknown on odd seeds, START is needed.
				connect(t, a, b, 20*time.Millisecond, time.Duration(1-seed%2)*40*time.Millisecond)
				for i, n := range []*node{a, b} {
					rng := rand.New(rand.NewPCG(seed, uint64(i))) // of n's attempt alone
					deliver := n.agent.cfg.Signaler
					n.agent.cfg.Signaler = SignalFunc(func(msg []byte) error {
						msg = append([]byte(nil), msg...)
						for range rng.IntN(3) { // none, one or two copies
							time.AfterFunc(time.Duration(rng.IntN(30))*time.Millisecond, func() { deliver.Signal(msg) })
						}
						return nil
					})
				}
				if err := a.agent.Punch(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Second)
				ra := a.last(t)
				if ra.Reason == Direct {
					expectDirect(t, a, b, homeA.Addr(), homeB.Addr())
				} else if ra.Took < defaultCheckTime {
					t.Errorf("gave up with %q after %v", ra.Reason, ra.Took)
				}
			})
		})
	}
}

// TestTwoAttemptsShareASocket: two sessions between the same two sockets, at
// the same time, keep to themselves.
func TestTwoAttemptsShareASocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a1, b1, homeA, homeB := homes(t, 1, restricted, restricted)
		a2 := &node{mux: a1.mux, link: a1.link, at: make(map[Stage]time.Time)}
		b2 := &node{mux: b1.mux, link: b1.link, at: make(map[Stage]time.Time)}
		// The second session has the roles the other way round.
		connect(t, b2, a2, 20*time.Millisecond, 40*time.Millisecond)
		if err := b2.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		punchOnce(t, a1, b1)
		expectDirect(t, a1, b1, homeA.Addr(), homeB.Addr())
		expectDirect(t, a2, b2, homeA.Addr(), homeB.Addr())
		for name, m := range map[string]*Mux{"a": a1.mux, "b": b1.mux} {
			if s := m.Stats(); s.Refused+s.UnknownResponse+s.UnknownUfrag != 0 {
				t.Errorf("%s: messages crossed: %+v", name, s)
			}
		}
	})
}

// TestRestart: a router forgot its mappings; a new generation on the same
// socket finds the new ones while nobody closed the old attempt.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		servers := serveSTUN(t, world.Host())
		access := netsim.Delay(10 * time.Millisecond)
		homeA, homeB := world.NAT(restricted, access), world.NAT(restricted, access)
		a := newNode(t, homeA.Host(), servers, Filter{})
		b := newNode(t, homeB.Host(), servers, Filter{})
		connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
		if err := a.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the first agent lingers
		old := b.last(t).Remote

		homeA.Reboot()
		homeB.Reboot()
		for _, n := range []*node{a, b} {
			n.link.Candidates, n.link.Behavior = n.mux.Gather(t.Context(), nil, servers)
		}
		// The controlled side asks for it.
		if err := b.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r := b.last(t)
		if r.Reason != Direct || r.Generation != 2 || r.Remote == old {
			t.Errorf("got %+v, want generation 2 at a new address, not %v", r, old)
		}
		time.Sleep(10 * time.Second)
		for name, n := range map[string]*node{"a": a, "b": b} {
			n.agent.mu.Lock()
			if left := len(n.agent.attempts); left != 0 {
				t.Errorf("%s: %d attempts are left", name, left)
			}
			n.agent.mu.Unlock()
			n.mux.mu.Lock()
			if left := len(n.mux.conns) + len(n.mux.binds); left != 0 {
				t.Errorf("%s: %d conns and transactions are left", name, left)
			}
			n.mux.mu.Unlock()
		}
	})
}

// TestSameHome: hosts behind one NAT that does not hairpin meet on the LAN,
// if the filter lets them.
func TestSameHome(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter func(lan netip.Prefix) Filter
		want   bool
	}{
		{"own prefix", func(lan netip.Prefix) Filter {
			return Filter{Own: func() []netip.Prefix { return []netip.Prefix{lan} }}
		}, true},
		{"same outside address", func(netip.Prefix) Filter { return Filter{} }, true},
		{"denied", func(lan netip.Prefix) Filter { return Filter{Deny: []netip.Prefix{lan}} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				servers := serveSTUN(t, world.Host())
				home := world.NAT(restricted, netsim.Delay(10*time.Millisecond))
				x, y := home.Host(), home.Host()
				filter := tt.filter(home.Inside())
				a, b := newNode(t, x, servers, filter), newNode(t, y, servers, filter)
				connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
				punchOnce(t, a, b)
				if tt.want {
					expectDirect(t, a, b, x.Addr(), y.Addr())
				} else if r := a.last(t); r.Reason == Direct && r.Remote.Addr() == y.Addr() {
					t.Errorf("checked a denied address: %+v", r)
				}
			})
		})
	}
}

// TestReasonsAgree: whoever fails, both ends say the same.
func TestReasonsAgree(t *testing.T) {
	for _, tt := range []struct {
		name   string
		x, y   netsim.NAT
		change func(a, b *node)
		want   Reason
	}{
		{"one symmetric", restricted, symmetric, nil, MappingAndFiltering},
		{"two symmetric", symmetric, symmetric, nil, MappingBoth},
		{"no candidates here", restricted, restricted, func(a, b *node) { a.link.Candidates = nil }, NoValidPair},
		{"UDP blocked there", restricted, restricted, func(a, b *node) {
			b.link.Candidates, b.link.Behavior = nil, Behavior{UDPBlocked: Yes}
		}, UDPIsBlocked},
		{"reasons are lost", symmetric, symmetric, func(a, b *node) {
			deliver := a.agent.cfg.Signaler
			a.agent.cfg.Signaler = SignalFunc(func(msg []byte) error {
				if messageType(msg[0]) == messageReason {
					return nil
				}
				return deliver.Signal(msg)
			})
		}, MappingBoth},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, _, _ := homes(t, 1, tt.x, tt.y)
				if tt.change != nil {
					tt.change(a, b)
				}
				punchOnce(t, a, b)
				for name, n := range map[string]*node{"a": a, "b": b} {
					if r := n.last(t); r.Reason != tt.want || r.Remote.IsValid() {
						t.Errorf("%s: %q toward %v, want %q", name, r.Reason, r.Remote, tt.want)
					}
				}
			})
		})
	}
}

func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := homes(t, 1, restricted, restricted)
		b.agent.Close()
		if err := a.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		if r := a.last(t); r.Reason != NoValidPair {
			t.Errorf("reason %q, want %q", r.Reason, NoValidPair)
		}
	})
}

func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := homes(t, 1, open, open)
		if err := a.agent.Tell(PathDied); err != nil {
			t.Fatal(err)
		}
		if err := a.agent.Tell("symmetric"); err == nil {
			t.Error("told a reason that is not on the list")
		}
		time.Sleep(time.Second)
		if _, got, _ := b.seen(); !slices.Equal(got, []Reason{PathDied}) {
			t.Errorf("b was told %q, want %q", got, PathDied)
		}
	})
}

// TestNewerPeer: the controlling side speaks a version that the other does not
// know yet.
func TestNewerPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := homes(t, 1, open, open)
		deliver := a.agent.cfg.Signaler
		a.agent.cfg.Signaler = SignalFunc(func(msg []byte) error {
			msg = slices.Clone(msg)
			msg[1]++
			return deliver.Signal(msg)
		})
		if a.agent.Busy() {
			t.Error("busy before Punch")
		}
		if err := a.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		if !a.agent.Busy() {
			t.Error("not busy after Punch")
		}
		time.Sleep(100 * time.Millisecond)
		if r := a.last(t).Reason; r != PeerTooOld || a.agent.Busy() {
			t.Errorf("reason %q, busy %v, want %q", r, a.agent.Busy(), PeerTooOld)
		}
		if _, got, _ := a.seen(); !slices.Equal(got, []Reason{PeerTooOld}) {
			t.Errorf("a was told %q, want %q", got, PeerTooOld)
		}
		if b.agent.Dropped() == 0 {
			t.Error("the offer was not counted")
		}
	})
}

// TestOfferLimits: a peer cannot make us run more than eight attempts, nor
// start them as fast as it likes.
func TestOfferLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, _, _ := homes(t, 1, open, open)
		running := func() int {
			b.agent.mu.Lock()
			defer b.agent.mu.Unlock()
			return len(b.agent.attempts)
		}
		for n := range 100 {
			m := samples()["offer"].m
			m.attempt = uint64(1000 + n)
			b.agent.Receive(appendMessage(nil, m))
		}
		if got := running(); got != offerBurst {
			t.Errorf("%d attempts run after a burst of 100 offers, want %d", got, offerBurst)
		}
		if got := b.agent.Dropped(); got != 100-offerBurst {
			t.Errorf("%d messages dropped, want %d", got, 100-offerBurst)
		}
		for n := range 20 {
			time.Sleep(offerSpacing)
			m := samples()["offer"].m
			m.attempt = uint64(2000 + n)
			b.agent.Receive(appendMessage(nil, m))
			if got := running(); got > maxAttempts {
				t.Fatalf("%d attempts run, want at most %d", got, maxAttempts)
			}
		}
		time.Sleep(30 * time.Second)
		if got := running(); got != 0 {
			t.Errorf("%d attempts are left", got)
		}
	})
}

// TestStrangers: what somebody without the credentials sends selects nothing,
// learns no address, and leaves an attempt working.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		servers := serveSTUN(t, world.Host())
		homeA, homeB := world.NAT(open, netsim.Delay(10*time.Millisecond)), world.NAT(open, netsim.Delay(10*time.Millisecond))
		a, b := newNode(t, homeA.Host(), servers, Filter{}), newNode(t, homeB.Host(), servers, Filter{})
		connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
		stranger := listen(t, world.Host(), 0)
		target := net.UDPAddrFromAddrPort(a.link.Candidates[1].Addr)

		// Hold the answer back, so that the attempt waits under attack.
		deliver := b.agent.cfg.Signaler
		b.agent.cfg.Signaler = SignalFunc(func(msg []byte) error {
			msg = append([]byte(nil), msg...)
			time.AfterFunc(time.Second, func() { deliver.Signal(msg) })
			return nil
		})
		if err := a.agent.Punch(); err != nil {
			t.Fatal(err)
		}
		a.agent.mu.Lock()
		at := a.agent.attempts[0]
		a.agent.mu.Unlock()

		rng := rand.New(rand.NewPCG(1, 2))
		for n := range 500 {
			var b []byte
			switch n % 5 {
			case 0: // garbage
				b = make([]byte, rng.IntN(200))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
			case 1: // wrong password
				b = buildSTUN(t, stun.TransactionID, stun.BindingRequest, stun.NewUsername(at.local.Ufrag+":abcd"),
					ice.PriorityAttr(1), ice.UseCandidate(), stun.NewShortTermIntegrity("not the password"), stun.Fingerprint)
			case 2: // no password
				b = buildSTUN(t, stun.TransactionID, stun.BindingRequest, stun.NewUsername(at.local.Ufrag+":abcd"), ice.UseCandidate())
			case 3: // a response to nothing
				b = success(t, stun.NewTransactionID(), "9.0.0.1:5000")
			case 4: // somebody else's request, cut or with flipped bits
				b = buildSTUN(t, stun.TransactionID, stun.BindingRequest, stun.NewUsername("nobody:abcd"),
					stun.NewShortTermIntegrity(at.local.Pwd), stun.Fingerprint)
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
			stranger.WriteTo(b, target)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond) // the last ones arrive
		if pairs, _, _ := a.seen(); len(pairs) != 0 {
			t.Errorf("pairs before the answer: %v", pairs)
		}
		at.gate.mu.Lock()
		for r := range at.gate.remotes {
			// b has begun, and its checks are genuine.
			if r.Addr() != homeB.Addr() {
				t.Errorf("learned %v from a stranger", r)
			}
		}
		at.gate.mu.Unlock()
		if s := a.mux.Stats(); s.Refused < 200 || s.UnknownResponse != 100 || s.NotSTUN < 90 || s.UnknownUfrag == 0 {
			t.Errorf("counters: %+v", s)
		}
		time.Sleep(10 * time.Second)
		expectDirect(t, a, b, homeA.Addr(), homeB.Addr())
	})
}

// TestGateLimits: an eavesdropper replays a genuine request from many
// addresses, and a peer names many private ones.
func TestGateLimits(t *testing.T) {
	const pwd, remotePwd = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var signs []Stage
	g := &attemptGate{
		filter: &Filter{Own: func() []netip.Prefix { return prefixes("192.168.0.0/16") }}, localPwd: pwd,
		remotes: make(map[netip.AddrPort]*remoteState),
		report:  func(_ netip.AddrPort, s Stage) { signs = append(signs, s) },
	}
	request := buildSTUN(t, stun.TransactionID, stun.BindingRequest, stun.NewUsername("abcd:efgh"), stun.NewShortTermIntegrity(pwd), stun.Fingerprint)
	h, err := parseSTUN(request)
	if err != nil {
		t.Fatal(err)
	}
	admitted := 0
	for n := range 100 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{5, 0, 0, byte(n)}), 4000)
		if g.admit(h, request, from) {
			admitted++
			if !g.mayCheck(from) {
				t.Errorf("an admitted address may not be checked")
			}
		} else if g.mayCheck(from) {
			t.Errorf("a refused address may be checked")
		}
	}
	if admitted != maxPeerReflexive {
		t.Errorf("%d peer-reflexive addresses, want %d", admitted, maxPeerReflexive)
	}
	if len(signs) != 0 {
		t.Errorf("addresses that nobody named are reported as %v", signs)
	}
	for _, from := range []string{"127.0.0.1:4000", "169.254.169.254:4000", "10.0.0.1:4000"} {
		if g.admit(h, request, netip.MustParseAddrPort(from)) {
			t.Errorf("a request from %s is admitted", from)
		}
	}

	d := Description{Pwd: remotePwd}
	for n := range 10 {
		d.Candidates = append(d.Candidates, Candidate{Kind: KindHost,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(10 + n)}), 4000)})
	}
	d.Candidates = append(d.Candidates, d.Candidates[0])
	list := g.learn(d, false, netip.AddrPort{})
	if len(list) != maxPrivate {
		t.Fatalf("%d private candidates, want %d", len(list), maxPrivate)
	}
	private := list[0].Addr
	tries := 0
	for range 20 {
		if g.mayCheck(private) {
			tries++
		}
	}
	if tries != privateTries {
		t.Errorf("%d checks of a private address, want %d", tries, privateTries)
	}
	// Once it answers, it is no longer somebody else's.
	response := buildSTUN(t, stun.TransactionID, stun.BindingSuccess, stun.NewShortTermIntegrity(remotePwd))
	hr, _ := parseSTUN(response)
	if !g.admit(hr, response, private) || !g.mayCheck(private) {
		t.Error("an address that answered is not checked any more")
	}
	if !slices.Equal(signs, []Stage{Valid}) {
		t.Errorf("signs = %v, want %v", signs, []Stage{Valid})
	}
	forged := buildSTUN(t, stun.TransactionID, stun.BindingSuccess, stun.NewShortTermIntegrity(pwd))
	hf, _ := parseSTUN(forged)
	if g.admit(hf, forged, private) {
		t.Error("a response under the wrong password is admitted")
	}
}

func TestAgentConfig(t *testing.T) {
	if _, err := NewAgent(AgentConfig{}); err == nil {
		t.Error("an agent without links and signaler is made")
	}
	a, err := NewAgent(AgentConfig{
		Controlling: true,
		Links:       func() []Link { return nil },
		Signaler:    SignalFunc(func([]byte) error { return nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Punch(); !errors.Is(err, errNoLink) {
		t.Errorf("Punch without links: %v", err)
	}
	for _, msg := range [][]byte{nil, {1}, []byte(strings.Repeat("x", 3000)), appendMessage(nil, message{kind: messageStart, attempt: 9})} {
		if err := a.Receive(msg); err == nil {
			t.Errorf("Receive(%q) succeeds", msg)
		}
	}
	if a.Dropped() != 4 {
		t.Errorf("%d messages dropped, want 4", a.Dropped())
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

// TestCandidatesThatMeanNothing are not signalled, and spoil nothing.
func TestCandidatesThatMeanNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, homeA, homeB := homes(t, 1, restricted, restricted)
		for _, n := range []*node{a, b} {
			good := n.link.Candidates
			n.link.Candidates = []Candidate{
				{Kind: KindHost},
				{Kind: 9, Addr: netip.MustParseAddrPort("5.6.7.8:9000")},
				{Kind: KindHost, Addr: netip.MustParseAddrPort("[fe80::1%eth0]:9000")},
			}
			for i := range 20 { // too many
				n.link.Candidates = append(n.link.Candidates, good...)
				good[0].Addr = netip.AddrPortFrom(good[0].Addr.Addr(), uint16(2000+i))
			}
		}
		punchOnce(t, a, b)
		expectDirect(t, a, b, homeA.Addr(), homeB.Addr())
	})
}

// TestCloseInTheMiddle ends everything at every moment of an attempt.
func TestCloseInTheMiddle(t *testing.T) {
	for ms := range 30 {
		synctest.Test(t, func(t *testing.T) {
			a, b, _, _ := homes(t, 1, restricted, restricted)
			if err := a.agent.Punch(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(ms*7) * time.Millisecond)
			if ms%2 == 0 {
				a.mux.Close()
			}
			a.agent.Close()
			if err := a.agent.Punch(); err == nil {
				t.Error("Punch on a closed agent succeeds")
			}
			b.agent.Close()
			b.mux.Close()
		})
	}
}

// TestLoopback runs attempts over real sockets of both address families.
func TestLoopback(t *testing.T) {
	for _, tt := range []struct {
		name, network, bind, at string
	}{
		{"IPv4", "udp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "udp6", "[::1]:0", "::1"},
		{"IPv4 over a socket of both families", "udp", "[::]:0", "127.0.0.1"},
		{"IPv6 over a socket of both families", "udp", "[::]:0", "::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			filter := Filter{Allow: prefixes("127.0.0.0/8", "::1/128")}
			var nodes []*node
			for range 2 {
				pc, err := net.ListenPacket(tt.network, tt.bind)
				if err != nil {
					t.Skipf("no socket: %v", err)
				}
				m, err := NewMux(pc, MuxConfig{Filter: filter})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				n := &node{mux: m, at: make(map[Stage]time.Time), link: Link{ID: 1, Mux: m}}
				host := netip.AddrPortFrom(netip.MustParseAddr(tt.at), m.LocalAddr().Port())
				n.link.Candidates, _ = m.Gather(context.Background(), []netip.AddrPort{host}, nil)
				nodes = append(nodes, n)
			}
			a, b := nodes[0], nodes[1]
			connect(t, a, b, time.Millisecond, 2*time.Millisecond)
			done := make(chan Result, 1)
			a.agent.cfg.OnResult = func(r Result) { done <- r }
			if err := a.agent.Punch(); err != nil {
				t.Fatal(err)
			}
			if r := <-done; r.Reason != Direct || r.Remote != b.link.Candidates[0].Addr {
				t.Errorf("got %+v, want direct toward %v", r, b.link.Candidates[0].Addr)
			}
			a.agent.Close()
			b.agent.Close()
		})
	}
}
