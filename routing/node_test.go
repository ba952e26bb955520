package routing

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// An outbox keeps what a node sends.
type outbox struct {
	to   []*Member
	sent []message
}

func (o *outbox) Send(to *Member, msg []byte) {
	m, err := parseMessage(msg)
	if err != nil {
		panic("a node sends malformed messages: " + err.Error())
	}
	o.to, o.sent = append(o.to, to), append(o.sent, m)
}

// last returns the last message sent, and forgets all.
func (o *outbox) last() (m message) {
	if n := len(o.sent); n > 0 {
		m = o.sent[n-1]
	}
	o.to, o.sent = nil, nil
	return m
}

var testStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// testNode returns a node that takes for members those whose proof is "ok".
func testNode(t *testing.T, change func(*Config)) (*Node, *outbox) {
	t.Helper()
	out := &outbox{}
	cfg := Config{
		Self: numbered(0), Messenger: out, Rand: rand.New(rand.NewPCG(1, 1)),
		Verify: func(m *Member) error {
			if string(m.Proof) != "ok" {
				return errors.New("no member")
			}
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n, out
}

// numbered returns a member of its own for each number.
func numbered(i int) *Member {
	return NewMember(PeerID{byte(i >> 16), byte(i >> 8), byte(i)}, Nonce{}, []byte("ok"))
}

func (n *Node) take(now time.Time, from *Member, m message) {
	n.Receive(now, from, appendMessage(nil, &m))
}

func TestPositionIsHashed(t *testing.T) {
	got := Position(PeerID{1}, Nonce{2}).String()
	// SHA-256 of the domain, 01 and 31 zeros, 02 and 31 zeros.
	if want := "70243cd6fe05c2591f69dc8b5117baa8436442318f65dd6ad19e03d1d6142f59"; got != want {
		t.Errorf("position = %s, want %s", got, want)
	}
}

func TestStrangersAreNotAnswered(t *testing.T) {
	n, out := testNode(t, nil)
	stranger := NewMember(PeerID{9}, Nonce{}, []byte("forged"))
	for _, k := range []kind{kindPing, kindFind, kindAsk} {
		n.take(testStart, stranger, message{kind: k})
	}
	if len(out.sent) != 0 || n.Len() != 0 {
		t.Errorf("sent %d messages to a stranger, who is one of %d contacts", len(out.sent), n.Len())
	}
	if got := n.Counters().Impostors; got != 3 {
		t.Errorf("impostors = %d, want 3", got)
	}
}

// One member that does not verify makes an answer a lie as a whole.
func TestForgedMembersInAnAnswer(t *testing.T) {
	n, out := testNode(t, nil)
	liar := numbered(1)
	n.take(testStart, liar, message{kind: kindPing})
	var result Result
	done := false
	n.Lookup(testStart, Key{1}, func(_ time.Time, r Result) { result, done = r, true })
	find := out.last()
	if find.kind != kindFind {
		t.Fatalf("sent kind %d, want FIND", find.kind)
	}
	n.take(testStart, liar, message{kind: kindFound, request: find.request, members: []*Member{
		numbered(2), NewMember(PeerID{3}, Nonce{}, []byte("forged")),
	}})
	if !done || len(result.Closest) != 0 || len(out.sent) != 0 {
		t.Errorf("done %v, result %+v, %d messages to those whom the liar named", done, result, len(out.sent))
	}
	if c := n.Counters(); c.Lies != 1 {
		t.Errorf("lies = %d, want 1", c.Lies)
	}
}

// Answers count only from whom was asked.
func TestAnswerOfAnotherIsIgnored(t *testing.T) {
	n, out := testNode(t, nil)
	asked, other := numbered(1), numbered(2)
	var answer []byte
	n.Ask(testStart, asked, 7, []byte("question"), func(_ time.Time, a []byte, err error) { answer = a })
	request := out.last().request
	n.take(testStart, other, message{kind: kindAnswer, request: request, payload: []byte("false")})
	if answer != nil {
		t.Fatalf("took %q of somebody else", answer)
	}
	n.take(testStart, asked, message{kind: kindAnswer, request: request, payload: []byte("true")})
	if string(answer) != "true" {
		t.Errorf("answer = %q", answer)
	}
	n.take(testStart, asked, message{kind: kindAnswer, request: request, payload: []byte("again")})
	if c := n.Counters(); c.Unexpected != 2 {
		t.Errorf("unexpected = %d, want 2", c.Unexpected)
	}
}

func TestFloodIsLimited(t *testing.T) {
	n, out := testNode(t, nil)
	flooder := numbered(1)
	for range 10000 {
		n.take(testStart, flooder, message{kind: kindFind, key: Key{1}})
	}
	found, refused := 0, 0
	for _, m := range out.sent {
		switch m.kind {
		case kindFound:
			found++
		case kindRefuse:
			refused++
		}
	}
	if found != 200 || refused != 9800 || n.Counters().Limited != 9800 {
		t.Errorf("answered %d, refused %d, counted %d; want the burst of 200 and the rest", found, refused, n.Counters().Limited)
	}
	out.last()
	n.take(testStart, numbered(2), message{kind: kindPing})
	if m := out.last(); m.kind != kindPong {
		t.Errorf("another member gets kind %d, want PONG", m.kind)
	}
	n.take(testStart.Add(time.Second), flooder, message{kind: kindPing})
	if m := out.last(); m.kind != kindPong {
		t.Errorf("a second later, the flooder gets kind %d, want PONG", m.kind)
	}
}

// However many members there are, a node's state has bounds.
func TestTableIsBounded(t *testing.T) {
	n, _ := testNode(t, nil)
	for i := range 20000 {
		n.take(testStart, numbered(i+1), message{kind: kindPing})
	}
	for i, b := range n.table.buckets {
		if len(b.contacts) > n.cfg.Near || len(b.spare) > spares {
			t.Errorf("bucket %d holds %d contacts and %d spares", i, len(b.contacts), len(b.spare))
		}
	}
	if n.Len() > 400 || len(n.verified.members) > n.cfg.VerifiedCache || len(n.limiter.buckets) > senders {
		t.Errorf("%d contacts, %d verified, %d senders", n.Len(), len(n.verified.members), len(n.limiter.buckets))
	}
}

// Who has been there and answers, stays; who does not, goes.
func TestLivenessPreference(t *testing.T) {
	n, out := testNode(t, func(c *Config) { c.Near = 1; c.K = 4; c.CheckInterval = -1; c.RefreshInterval = -1 })
	var same []*Member // all of bucket 0
	for i := 1; len(same) < 6; i++ {
		if m := numbered(i); n.self.position.CommonPrefix(m.position) == 0 {
			same = append(same, m)
		}
	}
	now := testStart
	for _, m := range same[:4] {
		n.take(now, m, message{kind: kindPing})
	}
	out.last()
	now = now.Add(2 * time.Minute)
	n.take(now, same[4], message{kind: kindFind}) // the bucket is full: the oldest is asked
	var ping message
	for i, m := range out.sent {
		if m.kind == kindPing && out.to[i].Peer == same[0].Peer {
			ping = m
		}
	}
	if ping.kind != kindPing {
		t.Fatal("the contact heard from least recently was not asked")
	}
	n.take(now, same[0], message{kind: kindPong, request: ping.request})
	if _, ok := n.Known(same[4].Peer, same[4].position); ok || n.Len() != 4 {
		t.Errorf("a newcomer is in, though the oldest answered; %d contacts", n.Len())
	}
	// Now same[1] is the oldest; it does not answer, and the spare comes in.
	out.last()
	now = now.Add(2 * time.Minute)
	n.take(now, same[5], message{kind: kindFind})
	now = now.Add(n.cfg.RequestTimeout)
	n.Advance(now)
	if _, ok := n.Known(same[1].Peer, same[1].position); ok {
		t.Error("a contact that does not answer is still in a full bucket")
	}
	if _, ok := n.Known(same[5].Peer, same[5].position); !ok {
		t.Error("the newest spare has not taken its place")
	}
}

func TestRevokedMemberIsForgotten(t *testing.T) {
	revoked := false
	n, _ := testNode(t, func(c *Config) {
		c.Verify = func(m *Member) error {
			if revoked && m.Peer == numbered(1).Peer {
				return errors.New("revoked")
			}
			return nil
		}
	})
	n.take(testStart, numbered(1), message{kind: kindPing})
	n.take(testStart, numbered(2), message{kind: kindPing})
	revoked = true
	n.Forget(testStart)
	if _, ok := n.Known(numbered(1).Peer, numbered(1).position); ok || n.Len() != 1 {
		t.Errorf("the revoked member is still known, %d contacts", n.Len())
	}
	n.take(testStart, numbered(1), message{kind: kindPing})
	if n.Len() != 1 {
		t.Error("the revoked member came back")
	}
}

// A routed message goes nearer to its key at each hop, or nowhere.
func TestRouteGoesNearer(t *testing.T) {
	n, out := testNode(t, nil)
	for i := 1; i < 200; i++ {
		n.take(testStart, numbered(i), message{kind: kindPing})
	}
	out.last()
	for i := range 50 {
		key := numbered(1000 + i).position
		n.take(testStart, numbered(1), message{kind: kindRoute, key: key, service: 200, limit: 9, id: uint64(i), origin: numbered(1)})
		for j, m := range out.sent {
			if m.kind != kindRoute {
				continue
			}
			if p := out.to[j].position; !key.closer(&p, &n.self.position) || m.limit != 8 {
				t.Errorf("passed on to %v with limit %d, which is not nearer than %v to %v", p, m.limit, n.self.position, key)
			}
		}
		out.last()
	}
	n.take(testStart, numbered(1), message{kind: kindRoute, key: numbered(5).position, limit: 0, origin: numbered(1)})
	if m := out.last(); m.kind != kindRefuse || m.reason != ReasonHops {
		t.Errorf("at the hop limit: %+v", m)
	}
}

func TestRequestsTimeOut(t *testing.T) {
	n, out := testNode(t, func(c *Config) { c.MaxRequests = 3 })
	var errs []error
	for range 4 {
		n.Ask(testStart, numbered(1), 1, nil, func(_ time.Time, _ []byte, err error) { errs = append(errs, err) })
	}
	if len(errs) != 1 || !errors.Is(errs[0], ErrBusy) {
		t.Fatalf("beyond the limit: %v", errs)
	}
	// They are sent again once.
	d := n.Deadline()
	if want := testStart.Add(400 * time.Millisecond); !d.Equal(want) {
		t.Errorf("deadline = %v, want %v", d, want)
	}
	n.Advance(d)
	if len(out.sent) != 6 || out.sent[0].request != out.sent[3].request {
		t.Errorf("%d messages sent, want each of three twice", len(out.sent))
	}
	d = n.Deadline()
	if want := testStart.Add(3 * time.Second); !d.Equal(want) {
		t.Errorf("deadline = %v, want %v", d, want)
	}
	n.Advance(d)
	if len(errs) != 4 || !errors.Is(errs[3], ErrTimeout) {
		t.Errorf("after the deadline: %v", errs)
	}
	if d := n.Deadline(); !d.IsZero() {
		t.Errorf("an idle node has a deadline, %v", d)
	}
}

func BenchmarkClosest(b *testing.B) {
	tab := table{self: numbered(0).position, k: 20, near: 60}
	for i := 1; i < 10000; i++ {
		tab.seen(testStart, numbered(i))
	}
	b.ReportAllocs()
	var buf [96]*Member
	for i := 0; b.Loop(); i++ {
		key := numbered(20000 + i%1000).position
		tab.closest(buf[:0], &key, 20, nil)
	}
}

func BenchmarkParseFound(b *testing.B) {
	m := message{kind: kindFound}
	for i := range 20 {
		m.members = append(m.members, testMember(byte(i), 200))
	}
	encoded := appendMessage(nil, &m)
	b.SetBytes(int64(len(encoded)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseMessage(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
