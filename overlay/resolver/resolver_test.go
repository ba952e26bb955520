package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// A fakeGrid is the grid lab. Late is a member that only the ledger knows.
type fakeGrid struct {
	members []overlay.MemberStatus
	late    []overlay.MemberStatus
	asked   atomic.Int32
	known   atomic.Bool

	offers    map[ri2n.PeerID][]overlay.Offer
	questions atomic.Int32
}

func member(n byte, name string) overlay.MemberStatus {
	id := ri2n.PeerID{n}
	return overlay.MemberStatus{
		Name: name, Peer: id, Roles: membership.Worker,
		Address: netip.AddrFrom4([4]byte{100, 90, 0, n}), Address6: netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 15: n}),
	}
}

func (g *fakeGrid) GridName() string { return "lab" }

func (g *fakeGrid) KnownMembers() []overlay.MemberStatus {
	if g.known.Load() {
		return append(slices.Clone(g.members), g.late...)
	}
	return g.members
}

func (g *fakeGrid) Members(context.Context) ([]overlay.MemberStatus, error) {
	g.asked.Add(1)
	g.known.Store(true)
	return g.KnownMembers(), nil
}

func (g *fakeGrid) Offers(_ context.Context, peer ri2n.PeerID) ([]overlay.Offer, error) {
	g.questions.Add(1)
	if g.offers[peer] == nil {
		return nil, syscall.EHOSTUNREACH
	}
	return g.offers[peer], nil
}

func newGrid() *fakeGrid {
	return &fakeGrid{members: []overlay.MemberStatus{member(1, "alice"), member(2, "bob")}, late: []overlay.MemberStatus{member(3, "carol")}}
}

// serve runs a server on loopback.
func serve(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, pc, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
	})
	return s, ln.Addr().String()
}

// ask puts one question.
func ask(t *testing.T, network, at, name string, kind uint16) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: patience}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, kind), at)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[kind], err)
	}
	return r
}

func TestRecords(t *testing.T) {
	g := newGrid()
	g.late = nil
	s, at := serve(t, Config{Grid: g})
	alice := ri2n.PeerID{1}.String()
	for _, tt := range []struct {
		name string
		kind uint16
		want string // of the first answer, behind its header; empty: none
		code int
	}{
		{"alice.lab.grid.", dns.TypeA, "100.90.0.1", dns.RcodeSuccess},
		{"ALICE.Lab.Grid.", dns.TypeA, "100.90.0.1", dns.RcodeSuccess},
		{"alice.lab.grid.", dns.TypeAAAA, "fd01:203:405::1", dns.RcodeSuccess},
		{alice + ".grid.", dns.TypeA, "100.90.0.1", dns.RcodeSuccess},
		{"alice.lab.grid.", dns.TypeTXT, "\"peer=" + alice + "\" \"roles=worker\"", dns.RcodeSuccess},
		{"alice.lab.grid.", dns.TypeMX, "", dns.RcodeSuccess},
		{"_ssh._tcp.alice.lab.grid.", dns.TypeSRV, "0 0 22 alice.lab.grid.", dns.RcodeSuccess},
		{"_7000._udp.bob.lab.grid.", dns.TypeSRV, "0 0 7000 bob.lab.grid.", dns.RcodeSuccess},
		{"_7000._udp.bob.lab.grid.", dns.TypeA, "", dns.RcodeSuccess},
		{"_7000._tcp.lab.grid.", dns.TypeSRV, "0 0 7000 alice.lab.grid.", dns.RcodeSuccess},
		{"lab.grid.", dns.TypeTXT, "\"grid=lab\" \"members=2\"", dns.RcodeSuccess},
		{"lab.grid.", dns.TypeNS, "ns.lab.grid.", dns.RcodeSuccess},
		{"lab.grid.", dns.TypeSOA, "ns.lab.grid. admin.lab.grid. 1 60 60 60 5", dns.RcodeSuccess},
		{"grid.", dns.TypeA, "", dns.RcodeSuccess},
		{"2.0.90.100.in-addr.arpa.", dns.TypePTR, "bob.lab.grid.", dns.RcodeSuccess},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.4.0.3.0.2.0.1.0.d.f.ip6.arpa.", dns.TypePTR, "alice.lab.grid.", dns.RcodeSuccess},
		{"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.4.0.3.0.2.0.1.0.d.f.ip6.arpa.", dns.TypePTR, "", dns.RcodeNameError},
		{"alice.other.grid.", dns.TypeA, "", dns.RcodeNameError}, // of another grid
		{"x.alice.lab.grid.", dns.TypeA, "", dns.RcodeNameError},
		{"_nonsense._tcp.alice.lab.grid.", dns.TypeSRV, "", dns.RcodeNameError},
		{"_ssh._sctp.alice.lab.grid.", dns.TypeSRV, "", dns.RcodeNameError},
		{"_ssh.alice.lab.grid.", dns.TypeSRV, "", dns.RcodeNameError},
		{"_0._tcp.alice.lab.grid.", dns.TypeSRV, "", dns.RcodeNameError},
		{"example.org.", dns.TypeA, "", dns.RcodeRefused}, // there is no other resolver
		{"alice.lab.grid.", dns.TypeANY, "", dns.RcodeRefused},
		{"lab.grid.", dns.TypeAXFR, "", dns.RcodeRefused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, network, at, tt.name, tt.kind)
			got := ""
			if len(r.Answer) > 0 {
				got = strings.TrimPrefix(r.Answer[0].String(), r.Answer[0].Header().String())
			}
			if r.Rcode != tt.code || got != tt.want {
				t.Errorf("%s %s %s: %s %q, want %s %q", network, tt.name, dns.TypeToString[tt.kind],
					dns.RcodeToString[r.Rcode], got, dns.RcodeToString[tt.code], tt.want)
			}
			if tt.want == "" && tt.code != dns.RcodeRefused && (len(r.Ns) != 1 || r.Ns[0].Header().Ttl != missingTTL) {
				t.Errorf("%s: no SOA for what is missing: %v", tt.name, r.Ns)
			}
		}
	}
	if s.Counters.Refused.Load() != 6 {
		t.Errorf("%d refused", s.Counters.Refused.Load())
	}
	if r := ask(t, "udp", at, "_7000._tcp.lab.grid.", dns.TypeSRV); len(r.Answer) != 2 {
		t.Errorf("%d servers of the grid", len(r.Answer))
	}
}

// Who has just joined is found, and what does not exist does not make the
// ledger be asked each time.
func TestNewMembers(t *testing.T) {
	g := newGrid()
	_, at := serve(t, Config{Grid: g})
	if r := ask(t, "udp", at, "carol.lab.grid.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("a new member: %v", r)
	}
	for range 50 {
		ask(t, "udp", at, "nobody.lab.grid.", dns.TypeA)
	}
	ask(t, "udp", at, "alice.other.grid.", dns.TypeA)
	if n := g.asked.Load(); n > 2 {
		t.Errorf("the ledger was asked %d times", n)
	}
}

func TestForwarding(t *testing.T) {
	upstream := &dns.Server{Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR(q.Question[0].Name + " 300 IN A 192.0.2.7")
		m.Answer = []dns.RR{rr}
		w.WriteMsg(m)
	})}
	var err error
	if upstream.PacketConn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go upstream.ActivateAndServe()
	defer upstream.Shutdown()
	// One that nobody answers at comes first.
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	s, at := serve(t, Config{Grid: newGrid(), Upstream: []string{dead.LocalAddr().String(), upstream.PacketConn.LocalAddr().String()}})
	if r := ask(t, "udp", at, "example.org.", dns.TypeA); len(r.Answer) != 1 || !strings.HasSuffix(r.Answer[0].String(), "192.0.2.7") {
		t.Errorf("another name: %v", r)
	}
	if r := ask(t, "udp", at, "alice.lab.grid.", dns.TypeA); !r.Authoritative || len(r.Answer) != 1 {
		t.Errorf("a name of ours: %v", r)
	}
	// Questions for .grid never leave, whatever becomes of them.
	ask(t, "udp", at, "nobody.lab.grid.", dns.TypeA)
	ask(t, "udp", at, "alice.other.grid.", dns.TypeA)
	if n := s.Counters.Forwarded.Load(); n != 1 {
		t.Errorf("%d questions forwarded", n)
	}
	// Others are answered for the grid alone.
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	if m := s.answer(t.Context(), q, false, true); m.Rcode != dns.RcodeRefused {
		t.Errorf("another computer's question for another name: %s", dns.RcodeToString[m.Rcode])
	}
}

// An answer is never larger than a client takes, nor than 1232 bytes over UDP.
func TestSizes(t *testing.T) {
	g := newGrid()
	for i := range 200 {
		g.members = append(g.members, member(byte(i), fmt.Sprintf("a-member-with-quite-a-long-name-number-%03d", i)))
	}
	s, at := serve(t, Config{Grid: g})
	for _, edns := range []uint16{0, 512, 1232, 4096, 65535} {
		q := new(dns.Msg).SetQuestion("_7000._tcp.lab.grid.", dns.TypeSRV)
		if edns > 0 {
			q.SetEdns0(edns, true)
		}
		limit := int(min(max(edns, plainUDP), maxUDP))
		c, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		c.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 70000)
		n, err := c.Read(buf)
		c.Close()
		if err != nil || n > limit {
			t.Errorf("EDNS size %d: an answer of %d bytes, %v; at most %d", edns, n, err, limit)
		}
	}
	if s.Counters.Truncated.Load() == 0 {
		t.Error("no answer was truncated")
	}
	if r := ask(t, "tcp", at, "_7000._tcp.lab.grid.", dns.TypeSRV); r.Truncated || len(r.Answer) != maxServers {
		t.Errorf("over TCP: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
}

// Garbage is dropped or refused, in fewer bytes than it came in, and the server
// goes on.
func TestGarbage(t *testing.T) {
	s, at := serve(t, Config{Grid: newGrid()})
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good, err := new(dns.Msg).SetQuestion("alice.lab.grid.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	response := slices.Clone(good)
	response[2] |= 0x80
	two := slices.Clone(good)
	two[5] = 2
	buf := make([]byte, 2000)
	for name, b := range map[string][]byte{
		"nothing": {}, "a byte": {1}, "half a header": good[:6], "a header": good[:12], "half a question": good[:20],
		"a response": response, "two questions": two, "noise": []byte(strings.Repeat("\xff", 300)),
		"a loop of names": append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1),
	} {
		c.Write(b)
		c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if n, err := c.Read(buf); err == nil && n > max(len(b), 12) {
			t.Errorf("%s of %d bytes is answered with %d", name, len(b), n)
		}
	}
	tcp, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	tcp.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	tcp.Close()
	if r := ask(t, "udp", at, "alice.lab.grid.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("after garbage: %v", r)
	}
	if s.Counters.Malformed.Load() == 0 {
		t.Error("nothing was counted")
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1, 0)
	client, neighbour, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::1")
	granted := 0
	for range 2 * clientBurst {
		if l.allow(now, client) {
			granted++
		}
	}
	if granted != clientBurst || l.allow(now, neighbour) || !l.allow(now, other) {
		t.Errorf("%d answers granted at once", granted)
	}
	now = now.Add(time.Second)
	for granted = 0; l.allow(now, neighbour); granted++ {
	}
	if granted != clientRate {
		t.Errorf("%d answers a second later", granted)
	}
	for i := range maxClients + 10 {
		l.allow(now, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}))
	}
	if len(l.buckets) > maxClients {
		t.Errorf("%d networks are told apart", len(l.buckets))
	}
	if now = now.Add(time.Minute); !l.allow(now, netip.MustParseAddr("203.0.113.1")) {
		t.Error("a new network finds no room after a minute")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"alice.lab.grid.", "_ssh._tcp.alice.lab.grid.", "_.grid.", "1.0.90.100.in-addr.arpa.", "grid.", "."} {
		b, err := new(dns.Msg).SetQuestion(name, dns.TypeSRV).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}) // announces a question and has none
	s := NewServer(Config{Grid: newGrid()})
	s.refreshed = time.Now().Add(time.Hour) // asks nobody
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := s.answer(context.Background(), q, false, true)
		m.Truncate(plainUDP)
		if out, err := m.Pack(); err == nil && len(out) > plainUDP {
			t.Errorf("%d bytes for %v", len(out), q.Question)
		}
	})
}

func TestOneSide(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewServer(Config{Grid: newGrid()}).Serve(ctx, pc, nil) }()
	if r := ask(t, "udp", pc.LocalAddr().String(), "alice.lab.grid.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("answer %v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A service is where members say that it is, else at its usual port.
func TestOfferedServices(t *testing.T) {
	g := newGrid()
	g.late = nil
	alice, bob := ri2n.PeerID{1}, ri2n.PeerID{2}
	g.offers = map[ri2n.PeerID][]overlay.Offer{
		alice: {{Name: "http", Network: "tcp", Port: 8080}, {Name: "http", Network: "tcp", Port: 8081}, {Name: "chess", Network: "udp", Port: 700}},
	}
	_, at := serve(t, Config{Grid: g})
	for _, tt := range []struct {
		name string
		want []string // port and target of each answer
		code int
	}{
		{"_http._tcp.alice.lab.grid.", []string{"8080 alice.lab.grid.", "8081 alice.lab.grid."}, dns.RcodeSuccess},
		{"_http._tcp.lab.grid.", []string{"8080 alice.lab.grid.", "8081 alice.lab.grid."}, dns.RcodeSuccess},
		{"_chess._udp.lab.grid.", []string{"700 alice.lab.grid."}, dns.RcodeSuccess},
		{"_chess._tcp.lab.grid.", nil, dns.RcodeNameError},
		{"_chess._udp.bob.lab.grid.", nil, dns.RcodeNameError},
		{"_http._tcp.bob.lab.grid.", []string{"80 bob.lab.grid."}, dns.RcodeSuccess}, // it does not answer
		{"_7000._tcp.alice.lab.grid.", []string{"7000 alice.lab.grid."}, dns.RcodeSuccess},
		{"_ssh._tcp." + bob.String() + ".grid.", []string{"22 bob.lab.grid."}, dns.RcodeSuccess},
	} {
		r := ask(t, "udp", at, tt.name, dns.TypeSRV)
		var got []string
		for _, rr := range r.Answer {
			srv, ok := rr.(*dns.SRV)
			if !ok {
				t.Fatalf("%s: %v", tt.name, rr)
			}
			got = append(got, fmt.Sprint(srv.Port, " ", srv.Target))
		}
		if r.Rcode != tt.code || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %s %q, want %s %q", tt.name, dns.RcodeToString[r.Rcode], got, dns.RcodeToString[tt.code], tt.want)
		}
	}
	// What they say is kept for a while.
	if n := g.questions.Load(); n > 4 { // once each, and once more where a test took long
		t.Errorf("members were asked %d times", n)
	}
}
