package swim

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// ErrFull reports that as many members are watched as Config.MaxMembers
// allows.
var ErrFull = errors.New("swim: too many members")

// A Detector watches members. One goroutine owns it.
type Detector struct {
	cfg    Config
	rand   *rand.Rand
	pulse  Pulse     // our own
	beatAt time.Time // when it was signed
	health health
	left   bool

	members map[routing.PeerID]*member
	ring    []*member // by position
	turn    []*member // in random order: whom to probe in turn
	next    int       // into turn
	engaged []*member // in random order: whom to probe when Config.OnDemand is set
	nextOf  int       // into engaged

	suspects []*member
	probes   []*probe
	helping  []help
	news     []news
	sequence uint64

	tickAt time.Time
	ticks  uint64
	heard  time.Time // when anybody was heard last

	counters Counters
}

// A member is one of those watched.
type member struct {
	m     *routing.Member
	pulse Pulse     // the newest
	heard time.Time // when a message of its own came last
	srtt  time.Duration

	engaged  bool
	state    State
	removeAt time.Time // when suspected
	askAt    time.Time // when suspected, and Config.OnDemand is set: it is asked again
}

// A probe waits for a sign of life.
type probe struct {
	of       *member
	sequence uint64
	sent     time.Time
	again    time.Time // when to ask once more; zero: never
	indirect time.Time // when to ask helpers; zero: they were asked
	verdict  time.Time // when the member becomes suspected
	helpers  int       // asked
	nacks    int       // that said at least that they live
}

// A help is a probe on behalf of another member.
type help struct {
	subject  routing.PeerID
	ours     uint64 // the sequence number of our PING
	by       *member
	theirs   uint64
	nackAt   time.Time // zero: said
	forgetAt time.Time
}

// maxHelping bounds the probes on behalf of others.
const maxHelping = 64

// A news is a rumour that still has to be told.
type news struct {
	r     rumour
	left  int // how many more messages shall carry it
	until time.Time
}

// maxNews bounds the rumours under way; the one told most often goes first.
const maxNews = 256

// New returns a detector that watches nobody. The error says what cfg lacks.
func New(cfg Config) (*Detector, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Detector{cfg: cfg, rand: cfg.Rand, members: make(map[routing.PeerID]*member)}, nil
}

// Counters returns what was counted so far.
func (d *Detector) Counters() Counters { return d.counters }

// Health returns the local health: 0 is well, 8 is the worst. Timeouts are
// one plus that many times as long as usual.
func (d *Detector) Health() int { return d.health.score }

// Len returns the number of members watched.
func (d *Detector) Len() int { return len(d.ring) }

// State returns what is thought of peer, zero when it is not watched.
func (d *Detector) State(peer routing.PeerID) State {
	if m := d.members[peer]; m != nil {
		return m.state
	}
	return 0
}

// Suspects returns the members that are suspected.
func (d *Detector) Suspects() []*routing.Member {
	out := make([]*routing.Member, 0, len(d.suspects))
	for _, m := range d.suspects {
		out = append(out, m.m)
	}
	return out
}

// Add begins to watch m, which the caller has verified. A member that is
// watched already gets the newer record. The error is [ErrFull].
func (d *Detector) Add(now time.Time, m *routing.Member) error {
	if m.Peer == d.cfg.Self.Peer {
		return nil
	}
	if old := d.members[m.Peer]; old != nil {
		old.m = m
		return nil
	}
	if len(d.ring) >= d.cfg.MaxMembers {
		return ErrFull
	}
	n := &member{m: m, state: Alive}
	d.members[m.Peer] = n
	i, _ := d.search(m.Position())
	d.ring = slices.Insert(d.ring, i, n)
	// Somewhere into what is left of this round.
	at := d.next + d.rand.IntN(len(d.turn)-d.next+1)
	d.turn = slices.Insert(d.turn, at, n)
	d.keepTicking(now)
	return nil
}

// keepTicking begins the periods, at a moment of chance, if there is something
// to do in them.
func (d *Detector) keepTicking(now time.Time) {
	if d.tickAt.IsZero() && !d.left && d.busy() {
		d.tickAt = now.Add(time.Duration(d.rand.Int64N(int64(d.cfg.Period))))
	}
}

// busy reports whether periods are of use.
func (d *Detector) busy() bool {
	if d.cfg.OnDemand {
		return len(d.engaged) > 0 || len(d.news) > 0 && len(d.ring) > 0
	}
	return len(d.ring) > 0
}

// Engage says whether this node exchanges data with peer, so that it has to
// know within two seconds of its death. It matters with Config.OnDemand alone.
func (d *Detector) Engage(now time.Time, peer routing.PeerID, engaged bool) {
	m := d.members[peer]
	if m == nil || m.engaged == engaged {
		return
	}
	m.engaged = engaged
	if !engaged {
		d.disengage(m)
		return
	}
	// Somewhere into what is left of this round.
	at := d.nextOf + d.rand.IntN(len(d.engaged)-d.nextOf+1)
	d.engaged = slices.Insert(d.engaged, at, m)
	d.keepTicking(now)
}

func (d *Detector) disengage(m *member) {
	if i := slices.Index(d.engaged, m); i >= 0 {
		d.engaged = slices.Delete(d.engaged, i, i+1)
		if i < d.nextOf {
			d.nextOf--
		}
	}
}

// Doubt says that something speaks against peer, say the silence of its
// session. It is asked at once.
func (d *Detector) Doubt(now time.Time, peer routing.PeerID) {
	if m := d.members[peer]; m != nil && m.state == Alive && !d.left {
		d.awake(now)
		d.counters.Doubted++
		d.ask(now, m)
	}
}

// Drop stops watching peer: it was revoked, or watching it is no longer ours.
func (d *Detector) Drop(peer routing.PeerID) {
	m := d.members[peer]
	if m == nil {
		return
	}
	delete(d.members, peer)
	if i, found := d.search(m.m.Position()); found {
		d.ring = slices.Delete(d.ring, i, i+1)
	}
	if i := slices.Index(d.turn, m); i >= 0 {
		d.turn = slices.Delete(d.turn, i, i+1)
		if i < d.next {
			d.next--
		}
	}
	d.disengage(m)
	isIt := func(s *member) bool { return s == m }
	d.suspects = slices.DeleteFunc(d.suspects, isIt)
	d.probes = slices.DeleteFunc(d.probes, func(p *probe) bool { return p.of == m })
	d.helping = slices.DeleteFunc(d.helping, func(h help) bool { return h.by == m })
	d.news = slices.DeleteFunc(d.news, func(n news) bool { return n.r.peer == peer && !n.r.pulse.Leaving })
	if !d.busy() {
		d.tickAt = time.Time{}
	}
}

// search returns where in the ring position is or belongs.
func (d *Detector) search(position routing.Key) (int, bool) {
	return slices.BinarySearchFunc(d.ring, position, func(m *member, p routing.Key) int {
		return m.m.Position().Compare(p)
	})
}

// Leave says farewell to those who watch this node, and stops probing.
func (d *Detector) Leave(now time.Time) {
	d.beat(now, true)
	d.left = true
	self := rumour{peer: d.cfg.Self.Peer, pulse: d.pulse}
	d.tell(now, self, fanout+d.cfg.Successors)
	d.tickAt, d.probes = time.Time{}, nil
}

// beat signs a new pulse.
func (d *Detector) beat(now time.Time, leaving bool) {
	d.beatAt = now
	d.pulse = Pulse{Number: max(d.pulse.Number+1, uint64(now.UnixMilli())), Leaving: leaving}
	d.pulse.Signature = d.cfg.Sign(d.pulse.signed(d.cfg.Self.Peer))
}

// Deadline returns when Advance must be called next, or zero for never.
func (d *Detector) Deadline() time.Time {
	at := d.tickAt
	first := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, p := range d.probes {
		first(p.again)
		first(p.indirect)
		first(p.verdict)
	}
	for i := range d.helping {
		first(d.helping[i].nackAt)
		first(d.helping[i].forgetAt)
	}
	for _, s := range d.suspects {
		first(s.removeAt)
		first(s.askAt)
	}
	return at
}

// awake notices that this node was away: it comes later than it meant to. For
// that time nobody could have answered in time, so nothing counts that was
// missed.
func (d *Detector) awake(now time.Time) {
	at := d.Deadline()
	if at.IsZero() || now.Sub(at) < d.cfg.Stall {
		return
	}
	late := now.Sub(at)
	d.counters.Stalls++
	d.health.add(1)
	d.probes, d.helping = nil, nil
	for _, s := range d.suspects {
		s.removeAt = s.removeAt.Add(late)
		if !s.askAt.IsZero() {
			s.askAt = now
		}
	}
	if !d.tickAt.IsZero() {
		d.tickAt = now
	}
}

// Advance does what has fallen due at now.
func (d *Detector) Advance(now time.Time) {
	d.awake(now)
	for _, p := range slices.Clone(d.probes) {
		d.advanceProbe(now, p)
	}
	for i := range d.helping {
		if h := &d.helping[i]; due(now, &h.nackAt) {
			d.send(now, h.by, &message{kind: kindNack, sequence: h.theirs, subject: h.subject})
		}
	}
	d.helping = slices.DeleteFunc(d.helping, func(h help) bool { return !now.Before(h.forgetAt) })
	d.askSuspects(now)
	for _, s := range slices.Clone(d.suspects) {
		if s.state != Suspected || now.Before(s.removeAt) {
			continue
		}
		if d.isolated(now) {
			s.removeAt = now.Add(d.cfg.RemoveAfter)
		} else {
			d.counters.Removed++
			d.Drop(s.m.Peer)
			d.cfg.Changed(now, s.m, Removed)
		}
	}
	if due(now, &d.tickAt) {
		d.tick(now)
	}
}

// isolated reports whether nobody at all is heard, so that it is more likely
// that this node is cut off than that everybody else died. Then nobody is
// removed.
func (d *Detector) isolated(now time.Time) bool {
	if d.cfg.Heard != nil {
		for peer := range d.members {
			if at := d.cfg.Heard(peer); at.After(d.heard) {
				d.heard = at
			}
		}
	}
	return now.Sub(d.heard) > 10*d.cfg.Period
}

// askSuspects asks suspected members now and then whether they live after all,
// and some others, so that this node knows whether it is cut off itself. With
// Config.OnDemand nobody else does so.
func (d *Detector) askSuspects(now time.Time) {
	asked := false
	for _, s := range d.suspects {
		if !due(now, &s.askAt) {
			continue
		}
		s.askAt = now.Add(d.askAgain())
		d.sequence++
		d.ping(now, s, d.sequence)
		asked = true
	}
	if asked {
		for _, o := range d.others(askOthers, nil) {
			d.sequence++
			d.ping(now, o, d.sequence)
		}
	}
}

// askOthers is how many members that are not suspected are asked along with
// those who are.
const askOthers = 2

// askAgain is the pause between two questions to a suspected member: seven
// until it is removed, and the last of the answers within what isolated takes
// for hearing somebody.
func (d *Detector) askAgain() time.Duration { return 7 * d.cfg.Period }

// due reports whether the timer at has run out, and stops it.
func due(now time.Time, at *time.Time) bool {
	if at.IsZero() || now.Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// tick begins a period: the successors are probed, and every other time
// somebody in turn.
func (d *Detector) tick(now time.Time) {
	if d.left || !d.busy() {
		return
	}
	d.tickAt = now.Add(d.cfg.Period)
	d.ticks++
	if d.cfg.OnDemand {
		d.tickOnDemand(now)
		return
	}
	start, _ := d.search(d.cfg.Self.Position())
	for i := range min(d.cfg.Successors, len(d.ring)) {
		d.probe(now, d.ring[(start+i)%len(d.ring)])
	}
	if d.ticks%2 == 0 {
		if d.next >= len(d.turn) {
			d.rand.Shuffle(len(d.turn), func(i, j int) { d.turn[i], d.turn[j] = d.turn[j], d.turn[i] })
			d.next = 0
		}
		m := d.turn[d.next]
		d.next++
		d.probe(now, m)
	}
}

// tickOnDemand begins a period in which those are probed with whom data is
// exchanged, and in which news that no message has carried is told to somebody.
func (d *Detector) tickOnDemand(now time.Time) {
	for range min(d.cfg.MaxEngaged, len(d.engaged)) {
		if d.nextOf >= len(d.engaged) {
			d.rand.Shuffle(len(d.engaged), func(i, j int) { d.engaged[i], d.engaged[j] = d.engaged[j], d.engaged[i] })
			d.nextOf = 0
		}
		m := d.engaged[d.nextOf]
		d.nextOf++
		if m.state == Alive {
			d.probe(now, m)
		}
	}
	d.news = slices.DeleteFunc(d.news, func(n news) bool { return now.After(n.until) })
	if len(d.news) > 0 {
		for _, o := range d.others(1, nil) {
			d.send(now, o, &message{kind: kindRumour})
		}
	}
}

// probe asks m whether it lives, unless it was heard just now.
func (d *Detector) probe(now time.Time, m *member) {
	if d.cfg.Heard != nil && m.state == Alive && now.Sub(d.cfg.Heard(m.m.Peer)) < d.cfg.Period/6 {
		d.counters.Spared++
		d.heard = now
		return
	}
	d.ask(now, m)
}

// ask asks m whether it lives, unless it is being asked.
func (d *Detector) ask(now time.Time, m *member) {
	if slices.ContainsFunc(d.probes, func(p *probe) bool { return p.of == m }) {
		return
	}
	d.counters.Probes++
	d.sequence++
	first, then := d.timeouts(m)
	p := &probe{of: m, sequence: d.sequence, sent: now, indirect: now.Add(first), again: now.Add(first), verdict: now.Add(first + then)}
	d.probes = append(d.probes, p)
	d.ping(now, m, p.sequence)
}

// timeouts returns how long m may take to answer, and how long the helpers
// after that: a path through one of them is two of ours.
func (d *Detector) timeouts(m *member) (direct, indirect time.Duration) {
	direct, indirect = d.cfg.MaxProbeTimeout, d.cfg.MaxIndirectTimeout
	if m.srtt > 0 {
		direct = min(direct, max(80*time.Millisecond, m.srtt*5/4+30*time.Millisecond))
		indirect = min(indirect, max(300*time.Millisecond, m.srtt*5/2+150*time.Millisecond))
	}
	return d.health.stretch(direct), d.health.stretch(indirect)
}

// ping sends PING, with the suspicion if there is one, so that the member
// learns of it from us at once (Lifeguard's buddy system).
func (d *Detector) ping(now time.Time, m *member, sequence uint64) {
	msg := &message{kind: kindPing, sequence: sequence}
	if m.state == Suspected {
		msg.rumours = append(msg.rumours, rumour{peer: m.m.Peer, pulse: m.pulse, accused: true, accuser: d.cfg.Self.Peer})
	}
	d.send(now, m, msg)
}

// advanceProbe goes on with p, whose member has not answered.
func (d *Detector) advanceProbe(now time.Time, p *probe) {
	if !now.Before(p.verdict) {
		d.probes = slices.DeleteFunc(d.probes, func(o *probe) bool { return o == p })
		// A helper from whom nothing came at all says more about us than
		// about the member (Lifeguard, section 4.1).
		d.health.add(p.helpers - p.nacks)
		if p.of.state == Alive {
			d.counters.Suspected++
			d.suspect(now, p.of, rumour{peer: p.of.m.Peer, pulse: p.of.pulse, accused: true, accuser: d.cfg.Self.Peer})
		}
		return
	}
	if due(now, &p.indirect) {
		d.counters.Indirect++
		for _, h := range d.others(d.cfg.Helpers, p.of) {
			p.helpers++
			d.send(now, h, &message{kind: kindPingReq, sequence: p.sequence, subject: p.of.m.Peer})
		}
	}
	if due(now, &p.again) {
		d.ping(now, p.of, p.sequence)
		if next := now.Add(p.verdict.Sub(p.sent) / 4); next.Before(p.verdict) {
			p.again = next
		}
	}
}

// others returns up to n random members that are alive, except not.
func (d *Detector) others(n int, not *member) (out []*member) {
	for range 3 * n {
		if len(out) == n || len(d.ring) == 0 {
			break
		}
		m := d.ring[d.rand.IntN(len(d.ring))]
		if m != not && m.state == Alive && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// Receive handles a message of from, which the session that brought it has
// proven. Nothing of msg is kept.
func (d *Detector) Receive(now time.Time, from routing.PeerID, msg []byte) {
	d.counters.Received++
	d.awake(now)
	m, err := parseMessage(msg)
	if err != nil {
		d.counters.Malformed++
		return
	}
	sender := d.members[from]
	if sender == nil {
		d.counters.Strangers++
		return
	}
	if m.pulse.Leaving {
		// A farewell must be provable, since others hear of it from us.
		d.rumoured(now, sender, &rumour{peer: from, pulse: m.pulse})
		return
	}
	d.alive(now, sender, &m.pulse)
	switch m.kind {
	case kindPing:
		d.send(now, sender, &message{kind: kindAck, sequence: m.sequence})
	case kindAck:
		d.acked(now, sender, &m)
	case kindPingReq:
		d.help(now, sender, &m)
	case kindNack:
		for _, p := range d.probes {
			if p.sequence == m.sequence && p.nacks < p.helpers {
				p.nacks++
			}
		}
	}
	for i := range m.rumours {
		d.rumoured(now, sender, &m.rumours[i])
	}
}

// alive notes that m itself was heard.
func (d *Detector) alive(now time.Time, m *member, p *Pulse) {
	m.heard, d.heard = now, now
	if p.Number > m.pulse.Number {
		m.pulse = *p
		d.refute(now, m)
	}
}

// acked takes an answer: of the sender, or about somebody it asked for us.
func (d *Detector) acked(now time.Time, sender *member, m *message) {
	for i, p := range d.probes {
		if p.sequence != m.sequence || p.of != sender && p.of.m.Peer != m.subject {
			continue
		}
		if p.of == sender {
			rtt := now.Sub(p.sent)
			if sender.srtt == 0 || rtt < sender.srtt {
				sender.srtt = rtt
			} else {
				sender.srtt += (rtt - sender.srtt) / 8
			}
		}
		d.health.add(-1)
		d.probes = slices.Delete(d.probes, i, i+1)
		break
	}
	for i := range d.helping {
		if h := &d.helping[i]; h.ours == m.sequence && h.subject == sender.m.Peer {
			d.send(now, h.by, &message{kind: kindAck, sequence: h.theirs, subject: h.subject,
				rumours: []rumour{{peer: h.subject, pulse: sender.pulse}}})
			d.helping = slices.Delete(d.helping, i, i+1)
			break
		}
	}
}

// help probes a member on behalf of by.
func (d *Detector) help(now time.Time, by *member, m *message) {
	subject := d.members[m.subject]
	if subject == nil || subject == by {
		d.counters.Strangers++
		d.send(now, by, &message{kind: kindNack, sequence: m.sequence, subject: m.subject})
		return
	}
	if len(d.helping) >= maxHelping {
		d.counters.Full++
		return
	}
	d.sequence++
	direct, _ := d.timeouts(subject)
	d.helping = append(d.helping, help{
		subject: m.subject, ours: d.sequence, by: by, theirs: m.sequence,
		// Early enough to be heard while the other still waits.
		nackAt:   now.Add(min(direct, 100*time.Millisecond)),
		forgetAt: now.Add(d.cfg.MaxIndirectTimeout),
	})
	d.ping(now, subject, d.sequence)
}

// rumoured takes r, which sender told us.
func (d *Detector) rumoured(now time.Time, sender *member, r *rumour) {
	if r.peer == d.cfg.Self.Peer {
		d.defend(now, sender, r)
		return
	}
	m := d.members[r.peer]
	if m == nil {
		d.counters.Strangers++
		return
	}
	if r.pulse.Number < m.pulse.Number {
		if r.accused && sender != m {
			// We know better: it lived after that.
			d.send(now, sender, &message{kind: kindRumour, rumours: []rumour{{peer: r.peer, pulse: m.pulse}}})
		}
		return
	}
	if r.pulse.Number > m.pulse.Number {
		if !d.cfg.Verify(m.m, r.pulse.signed(r.peer), r.pulse.Signature) {
			d.counters.Forged++
			return
		}
		m.pulse = r.pulse
		if r.pulse.Leaving {
			d.tell(now, rumour{peer: r.peer, pulse: r.pulse}, fanout)
			d.Drop(r.peer)
			d.cfg.Changed(now, m.m, Left)
			return
		}
		d.refute(now, m)
	}
	if r.accused && m.state == Alive && now.Sub(m.heard) > d.fresh() {
		d.counters.Accused++
		d.suspect(now, m, *r)
	}
}

// fresh is how recently we must have heard a member ourselves to think nothing
// of a suspicion about it.
func (d *Detector) fresh() time.Duration { return d.cfg.Period / 2 }

// defend refutes a suspicion about ourselves.
func (d *Detector) defend(now time.Time, sender *member, r *rumour) {
	if !r.accused || d.left {
		return
	}
	d.counters.Defended++
	d.health.add(1)
	if r.pulse.Number >= d.pulse.Number {
		self := d.cfg.Self
		if r.pulse.Number > d.pulse.Number && d.cfg.Verify(self, r.pulse.signed(self.Peer), r.pulse.Signature) {
			// Signed before a restart, by a clock that was ahead of this one.
			d.pulse.Number = r.pulse.Number
		}
		d.beat(now, false)
	}
	d.send(now, sender, &message{kind: kindRumour, rumours: []rumour{{peer: d.cfg.Self.Peer, pulse: d.pulse}}})
	d.tell(now, rumour{peer: d.cfg.Self.Peer, pulse: d.pulse}, fanout)
}

// suspect begins a suspicion and spreads it.
func (d *Detector) suspect(now time.Time, m *member, r rumour) {
	m.state = Suspected
	m.removeAt = now.Add(d.cfg.RemoveAfter)
	if d.cfg.OnDemand {
		m.askAt = now.Add(d.askAgain() / 2)
	}
	d.suspects = append(d.suspects, m)
	d.tell(now, r, fanout)
	d.cfg.Changed(now, m.m, Suspected)
}

// refute ends a suspicion, after m's pulse has grown, and spreads the proof.
func (d *Detector) refute(now time.Time, m *member) {
	if m.state != Suspected {
		return
	}
	m.state, m.removeAt, m.askAt = Alive, time.Time{}, time.Time{}
	d.suspects = slices.DeleteFunc(d.suspects, func(s *member) bool { return s == m })
	d.counters.Refuted++
	d.tell(now, rumour{peer: m.m.Peer, pulse: m.pulse}, fanout)
	d.cfg.Changed(now, m.m, Alive)
}

// fanout is to how many members news are told at once. The rest learn them
// from messages that are sent anyway.
const fanout = 3

// tell spreads r: to n random members now, and with the next messages. It
// takes the place of older news about the same member.
func (d *Detector) tell(now time.Time, r rumour, n int) {
	d.news = slices.DeleteFunc(d.news, func(o news) bool { return o.r.peer == r.peer })
	if len(d.news) >= maxNews {
		least := 0
		for i := range d.news {
			if d.news[i].left < d.news[least].left {
				least = i
			}
		}
		d.news = slices.Delete(d.news, least, least+1)
	}
	// SWIM, section 4.1: a small multiple of log n tells everybody.
	times := 3 * bits.Len(uint(len(d.ring)+1))
	if d.cfg.OnDemand {
		times = n + bits.Len(uint(len(d.ring)+1)) // messages are sent for it
	}
	d.news = append(d.news, news{r, times, now.Add(d.cfg.RemoveAfter)})
	d.keepTicking(now)
	if r.accused {
		if m := d.members[r.peer]; m != nil {
			d.send(now, m, &message{kind: kindRumour, rumours: []rumour{r}})
		}
	}
	for _, o := range d.others(n, d.members[r.peer]) {
		d.send(now, o, &message{kind: kindRumour})
	}
}

// send sends msg with our pulse, which is renewed once in a period, and as much
// news as fits, the least told first.
func (d *Detector) send(now time.Time, to *member, msg *message) {
	d.counters.Sent++
	if !d.left && now.Sub(d.beatAt) >= d.cfg.Period {
		d.beat(now, false)
	}
	msg.pulse = d.pulse
	if len(msg.rumours) < maxRumours && len(d.news) > 0 {
		slices.SortStableFunc(d.news, func(a, b news) int { return b.left - a.left })
		for i := range d.news {
			if len(msg.rumours) == maxRumours {
				break
			}
			if n := &d.news[i]; n.r.peer != to.m.Peer {
				msg.rumours = append(msg.rumours, n.r)
				n.left--
			}
		}
		d.news = slices.DeleteFunc(d.news, func(n news) bool { return n.left <= 0 })
	}
	d.cfg.Messenger.Send(to.m, appendMessage(make([]byte, 0, MaxMessage), msg))
}
