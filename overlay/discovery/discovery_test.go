package discovery_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/overlay/internal/simlan"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite golden files")

func peer(n int) ri2n.PeerID { return sha256.Sum256(fmt.Append(nil, "peer ", n)) }

var (
	lab   = membership.GridID(sha256.Sum256([]byte("lab")))
	other = membership.GridID(sha256.Sum256([]byte("other")))
)

func self(n int, name string) discovery.Self {
	return discovery.Self{Grid: lab, Peer: peer(n), Name: name, Port: func(netip.Addr) uint16 { return uint16(40000 + n) }}
}

func prefix(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 7, byte(n)}), 24)
}

// start runs node n on the LAN.
func start(t *testing.T, l *simlan.LAN, n int, name string) *discovery.Finder {
	t.Helper()
	return startWith(t, discovery.Config{Self: self(n, name), Wire: l.Attach(prefix(n)), Seed: uint64(n)})
}

func startWith(t *testing.T, cfg discovery.Config) *discovery.Finder {
	t.Helper()
	f := discovery.Start(cfg)
	t.Cleanup(func() { f.Close() })
	return f
}

// describe returns what f hears: "alice idle 192.168.7.1:40001".
func describe(f *discovery.Finder) string {
	var list []string
	for _, h := range f.Heard() {
		list = append(list, fmt.Sprint(h.Name, " ", h.State, " ", h.Addr))
	}
	return strings.Join(list, ", ")
}

func wantHeard(t *testing.T, f *discovery.Finder, want string) {
	t.Helper()
	synctest.Wait()
	if got := describe(f); got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

const settle = 4 * time.Second // probes, two announcements, an answer

// The life of a service: heard, in another state, withdrawn; and one that
// vanishes without a word.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		alice, bob := start(t, l, 1, "alice"), start(t, l, 2, "bob")
		time.Sleep(time.Second + 300*time.Millisecond)
		wantHeard(t, alice, "bob idle 192.168.7.2:40002")
		wantHeard(t, bob, "alice idle 192.168.7.1:40001")

		changed := alice.Changed()
		bob.SetState(discovery.Worker)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("the change was not told")
		}
		wantHeard(t, alice, "bob worker 192.168.7.2:40002") // at once
		bob.SetState(discovery.Coordinator)
		time.Sleep(2 * time.Second)
		wantHeard(t, alice, "bob coordinator 192.168.7.2:40002")

		bob.Close()
		time.Sleep(time.Second)
		wantHeard(t, alice, "")
		if got := bob.Status().Counters.Goodbyes; got != 3 {
			t.Errorf("%d goodbyes, want 3", got)
		}

		// Carol's computer loses power.
		carol := start(t, l, 3, "carol")
		time.Sleep(settle)
		l.SetFilter(func(from netip.Addr, _ []byte) bool { return from != prefix(3).Addr() })
		time.Sleep(time.Minute)
		wantHeard(t, alice, "carol idle 192.168.7.3:40003")
		time.Sleep(time.Minute + time.Second)
		wantHeard(t, alice, "")
		carol.Close()
	})
}

// Announcements that were lost are made good by questions, and an attachment
// that comes later is used.
func TestLateAndLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		l.SetFilter(func(netip.Addr, []byte) bool { return false })
		alice := start(t, l, 1, "alice")
		late := l.Attach(netip.Prefix{})
		bob := startWith(t, discovery.Config{Self: self(2, "bob"), Wire: late})
		time.Sleep(settle)
		l.SetFilter(nil)
		late.Move(prefix(2))
		time.Sleep(settle)
		wantHeard(t, alice, "bob idle 192.168.7.2:40002")
		wantHeard(t, bob, "alice idle 192.168.7.1:40001")

		// The cable is pulled, and put into another network.
		late.Move(netip.Prefix{})
		wantHeard(t, bob, "")
		late.Move(prefix(22))
		time.Sleep(settle)
		wantHeard(t, bob, "alice idle 192.168.7.1:40001")
		wantHeard(t, alice, "bob idle 192.168.7.2:40002, bob idle 192.168.7.22:40002")
		time.Sleep(2 * time.Minute)
		wantHeard(t, alice, "bob idle 192.168.7.22:40002")
		if got := alice.Of(peer(2)); len(got) != 1 || got[0].String() != "192.168.7.22:40002" {
			t.Errorf("bob at %v", got)
		}
	})
}

// Two computers with one name: whoever sees it is called by its peer ID.
func TestNameConflict(t *testing.T) {
	for _, together := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := new(simlan.LAN)
			watcher := start(t, l, 9, "watcher")
			a := start(t, l, 1, "pc")
			if !together {
				time.Sleep(settle)
			}
			b := start(t, l, 2, "pc")
			time.Sleep(2 * settle)
			names := map[string]bool{a.Status().Name: true, b.Status().Name: true}
			if len(names) != 2 || a.Status().Counters.Conflicts+b.Status().Counters.Conflicts == 0 {
				t.Errorf("together %v: names %v", together, names)
			}
			synctest.Wait()
			found := map[ri2n.PeerID]string{}
			for _, h := range watcher.Heard() {
				found[h.Peer] = h.Name
			}
			for n, f := range map[int]*discovery.Finder{1: a, 2: b} {
				if found[peer(n)] != f.Status().Name {
					t.Errorf("together %v: node %d is heard as %q, calls itself %q", together, n, found[peer(n)], f.Status().Name)
				}
			}
			if !together && a.Status().Name != "pc" {
				t.Error("the first holder lost its name")
			}
		})
	}
}

// An announcer makes packets by hand.
type announcer struct {
	grid  membership.GridID
	peer  ri2n.PeerID
	name  string
	port  uint16
	state string
	ttl   uint32
}

func (a announcer) message() *dns.Msg {
	service := "_grid-" + a.state + "._udp.local."
	instance := a.name + "." + service
	m := new(dns.Msg)
	m.Response = true
	hdr := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: a.ttl}
	}
	m.Answer = []dns.RR{
		&dns.PTR{Hdr: hdr(service, dns.TypePTR), Ptr: instance},
		&dns.SRV{Hdr: hdr(instance, dns.TypeSRV), Port: a.port, Target: "evil.local."},
		&dns.TXT{Hdr: hdr(instance, dns.TypeTXT), Txt: []string{"v=1", "grid=" + a.grid.String(), "peer=" + a.peer.String()}},
	}
	return m
}

func (a announcer) pack(t testing.TB) []byte {
	t.Helper()
	b, err := a.message().Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func from(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }

var honest = announcer{grid: lab, peer: peer(50), name: "dave", port: 41000, state: "idle", ttl: 120}

// What does not come from this network, is none of our grid, or makes no sense
// is counted and forgotten.
func TestRefused(t *testing.T) {
	text := func(s ...string) func(*dns.Msg) {
		return func(m *dns.Msg) { m.Answer[2].(*dns.TXT).Txt = s }
	}
	for _, tt := range []struct {
		name    string
		from    string
		change  func(*announcer)
		message func(*dns.Msg)
		counter func(discovery.Counters) uint64
	}{
		{name: "another network", from: "192.168.8.3:5353", counter: offLink},
		{name: "public", from: "9.9.9.9:5353", counter: offLink},
		{name: "loopback", from: "127.0.0.1:5353", counter: offLink},
		{name: "link-local", from: "169.254.1.1:5353", counter: offLink},
		{name: "multicast", from: "224.0.0.251:5353", counter: offLink},
		{name: "broadcast", from: "192.168.7.255:5353", counter: offLink},
		{name: "unspecified", from: "0.0.0.0:5353", counter: offLink},
		{name: "IPv6", from: "[fe80::1]:5353", counter: offLink},
		{name: "another port", from: "192.168.7.3:5354", counter: offLink},
		{name: "another grid", change: func(a *announcer) { a.grid = other }, counter: func(c discovery.Counters) uint64 { return c.OtherGrids }},
		{name: "our own peer ID", change: func(a *announcer) { a.peer = peer(1) }},
		{name: "port below 1024", change: func(a *announcer) { a.port = 80 }, counter: malformed},
		{name: "no peer", message: text("v=1", "grid="+lab.String()), counter: malformed},
		{name: "no grid", message: text("v=1", "peer="+peer(50).String()), counter: malformed},
		{name: "no version", message: text("grid="+lab.String(), "peer="+peer(50).String()), counter: malformed},
		{name: "bad peer", message: text("v=1", "grid="+lab.String(), "peer=x"), counter: malformed},
		{name: "no text", message: func(m *dns.Msg) { m.Answer = m.Answer[:2] }},
		{name: "name with a control character", change: func(a *announcer) { a.name = `da\027ve` }},
		{name: "an error", message: func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, counter: malformed},
		{name: "life zero", change: func(a *announcer) { a.ttl = 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := new(simlan.LAN)
				f := start(t, l, 1, "alice")
				time.Sleep(settle)
				a := honest
				if tt.change != nil {
					tt.change(&a)
				}
				m := a.message()
				if tt.message != nil {
					tt.message(m)
				}
				b, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				at := "192.168.7.3:5353"
				if tt.from != "" {
					at = tt.from
				}
				l.Inject(from(at), netip.AddrPort{}, b)
				wantHeard(t, f, "")
				if tt.counter != nil && tt.counter(f.Status().Counters) == 0 {
					t.Errorf("not counted: %+v", f.Status().Counters)
				}
			})
		})
	}
}

func offLink(c discovery.Counters) uint64   { return c.OffLink }
func malformed(c discovery.Counters) uint64 { return c.Malformed }

// Ten thousand services, from as many hands as a network has: the table keeps its
// bounds, nothing is remembered longer than ten minutes, and members still get in.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		member := peer(77)
		f := startWith(t, discovery.Config{Self: self(1, "alice"), Wire: l.Attach(prefix(1)), Known: func(p ri2n.PeerID) bool { return p == member }})
		time.Sleep(settle)
		const services = 10_000
		for i := range services {
			a := honest
			a.name, a.peer, a.ttl = fmt.Sprint("n", i), peer(1000+i), 1<<31
			l.Inject(netip.AddrPortFrom(prefix(2+i%250).Addr(), 5353), netip.AddrPort{}, a.pack(t))
			if i%100 == 0 {
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		synctest.Wait()
		c := f.Status().Counters
		if n := len(f.Heard()); n != 1024 || c.TableFull+c.RateLimited+uint64(n) < services {
			t.Errorf("%d services of %d are kept; %+v", n, services, c)
		}
		// One address can neither take more than its share nor claim a peer at
		// more than a few.
		a := honest
		a.peer, a.name = member, "member"
		for i := range 10 {
			l.Inject(netip.AddrPortFrom(prefix(2+i).Addr(), 5353), netip.AddrPort{}, a.pack(t))
		}
		synctest.Wait()
		if got := f.Of(member); len(got) != 4 {
			t.Errorf("the member is known at %d addresses, want 4", len(got))
		}
		if n := len(f.Heard()); n != 1024 {
			t.Errorf("%d services are kept", n)
		}
		l.SetFilter(func(netip.Addr, []byte) bool { return false })
		time.Sleep(10 * time.Minute)
		wantHeard(t, f, "")
	})
}

func TestShareOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		f := start(t, l, 1, "alice")
		time.Sleep(settle)
		for i := range 100 {
			a := honest
			a.name, a.peer = fmt.Sprint("n", i), peer(1000+i)
			l.Inject(from("192.168.7.3:5353"), netip.AddrPort{}, a.pack(t))
		}
		synctest.Wait()
		if n := len(f.Heard()); n != 16 {
			t.Errorf("one address has %d services, want 16", n)
		}
	})
}

// Garbage, and packets that are too many: counted, without an answer.
func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		f := start(t, l, 1, "alice")
		time.Sleep(settle)
		before := l.Sent()
		whole := honest.pack(t)
		for n := range whole {
			l.Inject(from("192.168.7.3:5353"), netip.AddrPort{}, whole[:n])
		}
		wantHeard(t, f, "")
		for i := range 3000 {
			l.Inject(from("192.168.7.3:5353"), netip.AddrPort{}, []byte{byte(i), byte(i >> 8), 0x84, 0, 0xff, 0xff, 0xff, 0xff})
		}
		synctest.Wait()
		c := f.Status().Counters
		if c.Malformed < uint64(len(whole))-2 || c.RateLimited < 1500 {
			t.Errorf("counters %+v", c)
		}
		if l.Sent() != before+len(whole)+3000 {
			t.Error("garbage was answered")
		}
	})
}

// A forged goodbye from another address takes nobody away.
func TestForgedGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		f := start(t, l, 1, "alice")
		start(t, l, 2, "bob")
		time.Sleep(settle)
		a := announcer{grid: lab, peer: peer(2), name: "bob", port: 40002, state: "idle"}
		l.Inject(from("192.168.7.3:5353"), netip.AddrPort{}, a.pack(t))
		time.Sleep(2 * time.Second)
		wantHeard(t, f, "bob idle 192.168.7.2:40002")
	})
}

// ask sends a question and returns what comes back to its sender, or to the
// group.
func ask(t *testing.T, l *simlan.LAN, w *simlan.Wire, at netip.AddrPort, m *dns.Msg) {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for {
		synctest.Wait()
		if !w.Pending() {
			break
		}
		if _, err := w.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	l.Inject(at, netip.AddrPort{}, b)
}

// received returns the responses that have arrived at w.
func received(t *testing.T, w *simlan.Wire) (list []*dns.Msg) {
	t.Helper()
	synctest.Wait()
	for w.Pending() {
		p, err := w.Receive()
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(p.Data); err != nil {
			t.Fatal(err)
		}
		if m.Response {
			list = append(list, m)
		}
	}
	return list
}

func TestQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		start(t, l, 1, "alice")
		w := l.Attach(prefix(2))
		time.Sleep(settle)
		here := netip.AddrPortFrom(prefix(2).Addr(), 5353)
		question := func(name string, kind uint16) *dns.Msg {
			m := new(dns.Msg)
			m.SetQuestion(name, kind)
			m.RecursionDesired = false
			return m
		}
		host := "grid-" + peer(1).String()[:16] + ".local."
		for _, tt := range []struct {
			name    string
			message *dns.Msg
			answers int
		}{
			{"types", question("_services._dns-sd._udp.local.", dns.TypePTR), 5},
			{"browse", question("_grid-idle._udp.local.", dns.TypePTR), 4},
			{"capitals", question("_GRID-idle._udp.local.", dns.TypePTR), 4},
			{"service", question("alice._grid-idle._udp.local.", dns.TypeSRV), 4},
			{"text", question("alice._grid-idle._udp.local.", dns.TypeTXT), 4},
			{"address", question(host, dns.TypeA), 4},
			{"another state", question("_grid-worker._udp.local.", dns.TypePTR), 0},
			{"another kind", question("_http._tcp.local.", dns.TypePTR), 0},
			{"AAAA", question(host, dns.TypeAAAA), 0},
		} {
			time.Sleep(2 * time.Second)
			ask(t, l, w, here, tt.message)
			time.Sleep(200 * time.Millisecond)
			got := received(t, w)
			if tt.answers == 0 && len(got) != 0 || tt.answers > 0 && (len(got) != 1 || len(got[0].Answer) != tt.answers || len(got[0].Question) != 0) {
				t.Errorf("%s: %v", tt.name, got)
			}
		}

		// Who knows the answer gets none, however often it asks.
		known := question("_grid-idle._udp.local.", dns.TypePTR)
		known.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: "_grid-idle._udp.local.", Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 100}, Ptr: "alice._grid-idle._udp.local."}}
		ask(t, l, w, here, known)
		time.Sleep(2 * time.Second)
		if got := received(t, w); len(got) != 0 {
			t.Errorf("known answer: %v", got)
		}
		// A storm of questions has one answer a second.
		for range 100 {
			ask(t, l, w, here, question("_grid-idle._udp.local.", dns.TypePTR))
		}
		time.Sleep(1900 * time.Millisecond)
		if got := received(t, w); len(got) != 1 && len(got) != 2 {
			t.Errorf("%d answers to a storm", len(got))
		}
		// A unicast question, and one by a plain resolver.
		unicast := question("_grid-idle._udp.local.", dns.TypePTR)
		unicast.Question[0].Qclass |= 1 << 15
		ask(t, l, w, here, unicast)
		if got := received(t, w); len(got) != 1 || len(got[0].Question) != 0 || len(got[0].Extra) != 3 {
			t.Errorf("unicast: %v", got)
		}
	})
}

// A resolver that knows nothing of multicast, such as dig, gets a plain answer
// at its own port, and not more of them than a flood deserves.
func TestLegacyResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		f := start(t, l, 1, "alice")
		time.Sleep(settle)
		var got []*dns.Msg
		l.Tap(func(to netip.AddrPort, b []byte) {
			if to == netip.AddrPortFrom(prefix(2).Addr(), 50000) {
				m := new(dns.Msg)
				if err := m.Unpack(b); err != nil {
					t.Error(err)
				}
				got = append(got, m)
			}
		})
		m := new(dns.Msg)
		m.SetQuestion("_grid-idle._udp.local.", dns.TypePTR)
		m.Id = 4711
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			l.Inject(netip.AddrPortFrom(prefix(2).Addr(), 50000), netip.AddrPort{}, b)
		}
		synctest.Wait()
		if len(got) != 20 || f.Status().Counters.RateLimited != 180 {
			t.Fatalf("%d answers, %+v", len(got), f.Status().Counters)
		}
		r := got[0]
		if r.Id != 4711 || len(r.Question) != 1 || len(r.Answer) != 1 || r.Answer[0].Header().Ttl > 10 || r.Extra[0].Header().Class != dns.ClassINET {
			t.Errorf("legacy answer %v", r)
		}
		// RFC 6762, section 11: nobody elsewhere is answered.
		l.Inject(from("9.9.9.9:50000"), netip.AddrPort{}, b)
		synctest.Wait()
		if len(got) != 20 {
			t.Error("an address elsewhere was answered")
		}
	})
}

// What a quiet network of ten nodes costs.
func TestQuietNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		var nodes []*discovery.Finder
		for n := 1; n <= 10; n++ {
			nodes = append(nodes, start(t, l, n, fmt.Sprint("node", n)))
		}
		time.Sleep(time.Minute)
		before := l.Sent()
		time.Sleep(20 * time.Minute)
		for _, f := range nodes {
			if n := len(f.Heard()); n != 9 {
				t.Errorf("a node hears %d others", n)
			}
		}
		each := float64(l.Sent()-before) / 10 / 20
		t.Logf("%.2f packets a minute from each node", each)
		if each > 3 {
			t.Errorf("%.2f packets a minute from each node", each)
		}
	})
}

// The bytes of an announcement, which other programs read.
func TestGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(simlan.LAN)
		var sent [][]byte
		l.Tap(func(to netip.AddrPort, b []byte) {
			if !to.IsValid() {
				sent = append(sent, b)
			}
		})
		f := start(t, l, 1, "alice")
		time.Sleep(settle)
		f.SetState(discovery.Worker)
		synctest.Wait()
		var announcement, goodbye, probe []byte
		for _, b := range sent {
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil {
				t.Fatal(err)
			}
			switch {
			case len(m.Ns) > 0:
				probe = b
			case m.Response && m.Answer[0].Header().Ttl == 0:
				goodbye = b
			case m.Response && announcement == nil:
				announcement = b
			}
		}
		for name, got := range map[string][]byte{"announcement": announcement, "goodbye": goodbye, "probe": probe} {
			file := filepath.Join("testdata", name+".hex")
			if *update {
				m := new(dns.Msg)
				if err := m.Unpack(got); err != nil {
					t.Fatal(err)
				}
				text := regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSpace(m.String()), "# ") + "\n"
				text = strings.ReplaceAll(text, "# \n", "#\n")
				for rest := got; len(rest) > 0; rest = rest[min(32, len(rest)):] {
					text += hex.EncodeToString(rest[:min(32, len(rest))]) + "\n"
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want string
			for line := range strings.Lines(string(text)) {
				if !strings.HasPrefix(line, "#") {
					want += strings.TrimSpace(line)
				}
			}
			if hex.EncodeToString(got) != want {
				t.Errorf("%s is %x, want %s", name, got, want)
			}
		}
	})
}

func TestStateText(t *testing.T) {
	for s := discovery.Idle; s <= discovery.Coordinator; s++ {
		b, err := s.MarshalText()
		var again discovery.State
		if err == nil {
			err = again.UnmarshalText(b)
		}
		if err != nil || again != s || !s.Valid() {
			t.Errorf("%v becomes %v, %v", s, again, err)
		}
	}
	var s discovery.State
	if err := s.UnmarshalText([]byte("asleep")); err == nil || discovery.State(3).Valid() {
		t.Error("a state that is none is taken")
	}
}
