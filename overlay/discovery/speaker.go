package discovery

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// RFC 6762, section 8.1: three probes, 250 ms apart, the first after up to
	// 250 ms.
	probes    = 3
	probeTime = 250 * time.Millisecond
	// RFC 6762, section 8.3: two announcements a second apart.
	announcements = 2
	announceTime  = time.Second
	// RFC 6762, section 6: answers that others may have as well wait 20 to
	// 120 ms, and a record is not sent to the group more than once a second,
	// or every 250 ms where somebody probes.
	answerWait   = 20 * time.Millisecond
	answerSpread = 100 * time.Millisecond
	answerPause  = time.Second
	// RFC 6762, section 5.2: questions of a browser come at growing intervals.
	firstPause = time.Second
	lastPause  = time.Hour

	// Packets and unicast answers each second, and how many may come at once.
	packetRate, packetBurst   = 500, 1000
	unicastRate, unicastBurst = 10, 20
)

// An outgoing is a datagram that is to be sent.
type outgoing struct {
	at   Attachment
	to   netip.AddrPort // zero: the group
	data []byte
}

// A speaker is the protocol: packets and the time go in, datagrams and a
// deadline come out.
type speaker struct {
	self     Self
	random   *rand.Rand
	table    table
	stations []*station
	count    Counters
	plain    bool      // the name is taken: we are called by our peer ID
	asked    time.Time // when a question of ours was last sent
	askAt    time.Time // when the next is due; zero: none
	pause    time.Duration
	packets  bucket
	unicasts bucket
	out      []outgoing
	news     bool // the table has changed
}

// A station is what we say on one attachment.
type station struct {
	Attachment
	probed    int
	announced int
	next      time.Time // when the next probe or announcement is due; zero: none
	answerAt  time.Time // when an answer to the group is due; zero: none
	kinds     bool      // somebody has asked for the types of services
	said      time.Time // when the group last got our records
}

// settled reports whether the names are ours here.
func (st *station) settled() bool { return st.probed > probes }

// A bucket lets rate events through each second, and burst at once.
type bucket struct {
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()*rate)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// announcement is what we say at a station; nil: we are not reached there.
func (s *speaker) announcement(st *station) *announcement {
	port := s.self.Port(st.Prefix.Addr())
	if port == 0 {
		return nil
	}
	label := s.self.Name
	if label == "" || s.plain {
		label = s.self.Peer.Short()
	}
	return &announcement{self: s.self, label: label, addr: st.Prefix.Addr(), port: port}
}

func (s *speaker) send(st *station, to netip.AddrPort, m *dns.Msg) {
	b, err := m.Pack()
	if err != nil { // names and texts of ours always fit
		return
	}
	s.out = append(s.out, outgoing{st.Attachment, to, b})
}

// attach takes in which attachments there are.
func (s *speaker) attach(now time.Time, list []Attachment) {
	var kept []*station
	fresh := false
	for _, at := range list {
		i := slices.IndexFunc(s.stations, func(st *station) bool { return st.Attachment == at })
		if i >= 0 {
			kept = append(kept, s.stations[i])
			continue
		}
		fresh = true
		kept = append(kept, &station{Attachment: at, next: now.Add(time.Duration(s.random.Int64N(int64(probeTime))))})
	}
	s.stations = kept
	s.news = s.table.leave(list) || s.news
	if fresh {
		s.browseFrom(now)
	}
}

// browseFrom begins the series of questions anew.
func (s *speaker) browseFrom(now time.Time) {
	s.pause = firstPause
	s.askAt = now.Add(answerWait + time.Duration(s.random.Int64N(int64(answerSpread))))
}

// ask has a question sent soon, though not more than one a second.
func (s *speaker) ask(now time.Time) {
	at := now
	if !s.asked.IsZero() && now.Sub(s.asked) < firstPause {
		at = s.asked.Add(firstPause)
	}
	s.askAt = earliest(s.askAt, at)
	s.pause = firstPause
}

// setState withdraws one service and announces another.
func (s *speaker) setState(now time.Time, state State) {
	if s.self.State == state {
		return
	}
	s.withdraw()
	s.self.State = state
	s.announceAgain(now)
}

// withdraw says goodbye wherever our service is known.
func (s *speaker) withdraw() {
	for _, st := range s.stations {
		if a := s.announcement(st); a != nil && st.settled() && st.announced > 0 {
			s.send(st, netip.AddrPort{}, response(a.all(0, false), nil))
			s.count.Goodbyes++
		}
	}
}

// announceAgain says what has changed, at once where the names are ours.
func (s *speaker) announceAgain(now time.Time) {
	for _, st := range s.stations {
		if st.settled() {
			st.announced, st.next = 0, now
		}
	}
	s.advance(now)
}

// rename gives our name up for our peer ID, which nobody else has, and probes
// that.
func (s *speaker) rename(now time.Time) {
	s.count.Conflicts++
	if s.plain || s.self.Name == "" {
		return // somebody plays with us
	}
	s.plain = true
	for _, st := range s.stations {
		st.probed, st.announced, st.next = 0, 0, now.Add(probeTime)
	}
}

// receive takes in a packet.
func (s *speaker) receive(now time.Time, p Packet) {
	s.count.Packets++
	if !s.packets.take(now, packetRate, packetBurst) {
		s.count.RateLimited++
		return
	}
	// RFC 6762, section 11: only who is on the link is listened to.
	i := slices.IndexFunc(s.stations, func(st *station) bool {
		return (p.Index == 0 || p.Index == st.Index) && acceptable(p.From.Addr(), st.Prefix)
	})
	if i < 0 {
		s.count.OffLink++
		return
	}
	m := new(dns.Msg)
	if len(p.Data) > maxPacket || m.Unpack(p.Data) != nil || m.Opcode != dns.OpcodeQuery {
		s.count.Malformed++
		return
	}
	st := s.stations[i]
	switch {
	case !m.Response:
		s.question(now, st, m, p.From)
	case p.From.Port() != port:
		s.count.OffLink++ // RFC 6762, section 6: no answer comes from there
	default:
		s.answer(now, st, m, p.From.Addr())
	}
}

// acceptable reports whether addr is that of a computer in prefix.
func acceptable(addr netip.Addr, prefix netip.Prefix) bool {
	return addr.Is4() && prefix.Contains(addr) && !addr.IsLoopback() && !addr.IsMulticast() &&
		!addr.IsLinkLocalUnicast() && !addr.IsUnspecified() && addr != broadcast(prefix)
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return netip.Addr{}
	}
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

// question answers what somebody asks.
func (s *speaker) question(now time.Time, st *station, m *dns.Msg, from netip.AddrPort) {
	a := s.announcement(st)
	if a == nil || len(m.Question) > maxQuestions {
		return
	}
	if !st.settled() {
		s.tieBreak(now, a, m)
		return
	}
	legacy := from.Port() != port
	ttl := ourTTL
	if legacy {
		ttl = legacyTTL
	}
	var answer, more []dns.RR
	unicast, kinds := legacy, false
	for _, q := range m.Question {
		x, y := a.answers(q, ttl, legacy)
		if len(x) > 0 && q.Qclass&topBit != 0 {
			unicast = true
		}
		if len(x) > 0 && strings.EqualFold(q.Name, serviceTypes) {
			kinds = true
		}
		answer, more = append(answer, x...), append(more, y...)
	}
	switch {
	case len(answer) == 0:
	case unicast:
		if !s.unicasts.take(now, unicastRate, unicastBurst) {
			s.count.RateLimited++
			return
		}
		r := response(answer, more)
		r.Id = m.Id
		if legacy {
			r.Question = m.Question
		}
		s.send(st, from, r)
		s.count.Answers++
	case len(m.Ns) > 0: // a probe: defend the name
		st.answerAt = earliest(st.answerAt, latest(now, st.said.Add(probeTime)))
	case kinds || !knows(m, a):
		st.kinds = st.kinds || kinds
		wait := answerWait + time.Duration(s.random.Int64N(int64(answerSpread)))
		st.answerAt = earliest(st.answerAt, latest(now.Add(wait), st.said.Add(answerPause)))
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tieBreak gives way to somebody who probes for our name at the same time and
// whose host name comes later (RFC 6762, section 8.2).
func (s *speaker) tieBreak(now time.Time, a *announcement, m *dns.Msg) {
	for _, rr := range m.Ns {
		if srv, ok := rr.(*dns.SRV); ok && s.isOurs(a, srv) && strings.Compare(hostOf(s.self.Peer), strings.ToLower(srv.Target)) < 0 {
			s.rename(now)
			return
		}
	}
}

// isOurs reports whether a record of somebody else is for a name of ours.
func (s *speaker) isOurs(a *announcement, srv *dns.SRV) bool {
	label, _, ok := stateOf(srv.Hdr.Name)
	return ok && label == a.label && !strings.EqualFold(srv.Target, hostOf(s.self.Peer))
}

// answer takes in what somebody announces.
func (s *speaker) answer(now time.Time, st *station, m *dns.Msg, from netip.Addr) {
	if a := s.announcement(st); a != nil {
		for _, rr := range m.Answer {
			if srv, ok := rr.(*dns.SRV); ok && srv.Hdr.Ttl > 0 && s.isOurs(a, srv) {
				s.rename(now)
				break
			}
		}
	}
	list, bad := claims(m)
	s.count.Malformed += uint64(bad)
	spread := spreadAgain * s.random.Float64()
	for _, c := range list {
		switch {
		case c.gone:
			s.news = s.table.withdraw(now, c, from) || s.news
		case c.peer == s.self.Peer:
		case c.grid != s.self.Grid:
			s.count.OtherGrids++
		default:
			news, ok := s.table.add(now, c, st.Attachment, from, spread)
			s.news = s.news || news
			if !ok {
				s.count.TableFull++
			}
		}
	}
}

// advance does what is due at now.
func (s *speaker) advance(now time.Time) {
	s.news = s.table.expire(now) || s.news
	for _, st := range s.stations {
		a := s.announcement(st)
		if !st.next.IsZero() && !now.Before(st.next) {
			s.step(now, st, a)
		}
		if !st.answerAt.IsZero() && !now.Before(st.answerAt) {
			st.answerAt = time.Time{}
			if a != nil && st.settled() {
				s.say(now, st, a)
				s.count.Answers++
			}
		}
	}
	again := false
	for _, e := range s.table.entries {
		if due := e.due(); !due.IsZero() && !now.Before(due) {
			e.asked++
			again = true
		}
	}
	scheduled := !s.askAt.IsZero() && !now.Before(s.askAt)
	if scheduled {
		s.askAt = now.Add(s.pause)
		s.pause = min(2*s.pause, lastPause)
	}
	if (scheduled || again) && len(s.stations) > 0 {
		s.browse(now)
	}
}

// step probes or announces.
func (s *speaker) step(now time.Time, st *station, a *announcement) {
	switch {
	case a == nil: // perhaps later: a socket is opened
		st.next = now.Add(announceTime)
	case st.probed < probes:
		s.send(st, netip.AddrPort{}, a.probe())
		st.probed++
		st.next = now.Add(probeTime)
	default:
		st.probed = probes + 1
		s.say(now, st, a)
		st.announced++
		st.next = time.Time{}
		if st.announced < announcements {
			st.next = now.Add(announceTime)
		}
	}
}

// say sends all our records to the group.
func (s *speaker) say(now time.Time, st *station, a *announcement) {
	answer := append(a.all(ourTTL, false), a.address(ourTTL, false))
	if st.kinds {
		answer = append(answer, a.kind(ourTTL))
	}
	s.send(st, netip.AddrPort{}, response(answer, nil))
	st.said, st.kinds = now, false
}

// browse asks everywhere, and says what is known there so that it is not told
// again.
func (s *speaker) browse(now time.Time) {
	s.asked = now
	for _, st := range s.stations {
		var known []dns.RR
		for _, e := range s.table.entries {
			if left := e.expires.Sub(now); e.index == st.Index && left > e.life/2 && !e.leaving && len(known) < maxKnown {
				known = append(known, &dns.PTR{
					Hdr: record(e.State.service(), dns.TypePTR, dns.ClassINET, left),
					Ptr: e.Name + "." + e.State.service(),
				})
			}
		}
		s.send(st, netip.AddrPort{}, browse(known))
		s.count.Questions++
	}
}

// deadline returns when advance is to be called; zero: never.
func (s *speaker) deadline() time.Time {
	next := s.table.next()
	if len(s.stations) > 0 {
		next = earliest(next, s.askAt)
	}
	for _, st := range s.stations {
		next = earliest(next, earliest(st.next, st.answerAt))
	}
	return next
}
