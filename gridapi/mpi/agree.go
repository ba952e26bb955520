package mpi

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// A rankSet is a set of ranks of one communicator.
type rankSet []byte

func newRankSet(n int) rankSet    { return make(rankSet, (n+7)/8) }
func (s rankSet) has(r int) bool  { return s[r/8]&(1<<(r%8)) != 0 }
func (s rankSet) add(r int)       { s[r/8] |= 1 << (r % 8) }
func (s rankSet) join(t rankSet)  { s.each(t, func(a, b byte) byte { return a | b }) }
func (s rankSet) share(t rankSet) { s.each(t, func(a, b byte) byte { return a & b }) }

func (s rankSet) each(t rankSet, f func(a, b byte) byte) {
	for i := range s {
		s[i] = f(s[i], t[i])
	}
}

// A vote is what a member brings to an agreement, and what comes out.
type vote struct {
	flag   uint64  // and of all
	failed rankSet // or of all
	acked  rankSet // and of all
}

// agreePhase is the kind of an agreeMessage.
type agreePhase uint8

const (
	phaseVote    agreePhase = 1 // to the leader: my vote, and what I have adopted
	phasePropose agreePhase = 2 // from the leader
	phaseAccept  agreePhase = 3 // to the leader: I have adopted it
	phaseDecide  agreePhase = 4
)

// An agreeMessage is a step of an agreement (docs/mpi-protocol.md, section 4).
type agreeMessage struct {
	phase   agreePhase
	leader  int32 // whose round it is
	adopted int32 // whose proposal the vote is; negative: the sender's own vote
	vote    vote  // not of phaseAccept
}

func appendAgreeMessage(b []byte, m agreeMessage) []byte {
	b = append(b, byte(m.phase))
	b = binary.BigEndian.AppendUint32(b, uint32(m.leader))
	b = binary.BigEndian.AppendUint32(b, uint32(m.adopted))
	if m.phase == phaseAccept {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, m.vote.flag)
	b = append(b, m.vote.failed...)
	return append(b, m.vote.acked...)
}

// parseAgreeMessage decodes a whole body, of a communicator of n ranks.
func parseAgreeMessage(b []byte, n int) (m agreeMessage, err error) {
	set := (n + 7) / 8
	want := 9
	if len(b) > 0 && agreePhase(b[0]) != phaseAccept {
		want = 17 + 2*set
	}
	if len(b) != want {
		return m, fmt.Errorf("%w: %d bytes of an agreement", errMalformed, len(b))
	}
	m.phase = agreePhase(b[0])
	m.leader = int32(binary.BigEndian.Uint32(b[1:]))
	m.adopted = int32(binary.BigEndian.Uint32(b[5:]))
	bad := m.phase < phaseVote || m.phase > phaseDecide || m.leader < 0 || int(m.leader) >= n || m.adopted < -1 || int(m.adopted) >= n ||
		m.phase != phaseVote && m.adopted != -1
	if m.phase != phaseAccept {
		m.vote.flag = binary.BigEndian.Uint64(b[9:])
		m.vote.failed = slices.Clone(rankSet(b[17 : 17+set]))
		m.vote.acked = slices.Clone(rankSet(b[17+set:]))
		if n%8 != 0 { // no bits beyond the last rank
			bad = bad || (m.vote.failed[set-1]|m.vote.acked[set-1])>>(n%8) != 0
		}
	}
	if bad {
		return agreeMessage{}, fmt.Errorf("%w: agreement %x", errMalformed, b)
	}
	return m, nil
}

// An agreement is uniform consensus among the members of a communicator: all
// that decide decide the same, also those that fail afterwards, and all that
// live decide. The lowest rank that lives leads. It gathers a vote from every
// member that lives, proposes what they come to, and when all that live have
// adopted that it is decided. When the leader fails the next one gathers
// again; what any member has adopted from the latest leader is what it
// proposes. Failures are final: who is held for dead by one is fenced by all.
//
// It knows nothing of time or networks: calls go in, take gives messages.
type agreement struct {
	n, me   int
	mine    *vote // nil: not called here yet
	dead    []bool
	adopted *vote
	by      int32 // leader of the adopted proposal; negative: none
	told    int32 // the leader that has our vote; negative: none
	decided *vote

	// while we lead
	votes    []*agreeMessage
	proposed *vote
	accepts  []bool

	out []addressed
}

type addressed struct {
	to int
	agreeMessage
}

func newAgreement(n, me int) agreement {
	return agreement{n: n, me: me, dead: make([]bool, n), by: -1, told: -1, votes: make([]*agreeMessage, n), accepts: make([]bool, n)}
}

// take returns the messages to send.
func (a *agreement) take() []addressed {
	out := a.out
	a.out = nil
	return out
}

func (a *agreement) say(to int, m agreeMessage) {
	if to != a.me && !a.dead[to] {
		a.out = append(a.out, addressed{to, m})
	}
}

// leader returns the lowest rank that lives.
func (a *agreement) leader() int { return slices.Index(a.dead, false) }

// start gives this member's vote.
func (a *agreement) start(v vote) {
	a.mine = &v
	a.step()
}

// fail takes note that a member is dead.
func (a *agreement) fail(rank int) {
	if a.dead[rank] || rank == a.me {
		return
	}
	a.dead[rank] = true
	if a.decided != nil {
		a.tellDecision()
		return
	}
	a.step()
}

// tellDecision sees that the result survives: the leader knows it and tells all.
func (a *agreement) tellDecision() {
	m := agreeMessage{phase: phaseDecide, leader: int32(a.leader()), adopted: -1, vote: *a.decided}
	if l := a.leader(); l != a.me {
		a.say(l, m)
		return
	}
	for r := range a.n {
		a.say(r, m)
	}
}

// receive takes a message.
func (a *agreement) receive(from int, m agreeMessage) {
	if a.dead[from] {
		return
	}
	if m.phase == phaseDecide {
		if a.decided == nil {
			a.decide(m.vote)
		}
		return
	}
	if a.decided != nil {
		if m.phase == phaseVote {
			a.say(from, agreeMessage{phase: phaseDecide, leader: m.leader, adopted: -1, vote: *a.decided})
		}
		return
	}
	switch m.phase {
	case phaseVote:
		if int(m.leader) == a.me {
			a.votes[from] = &m
		}
	case phasePropose:
		if int(m.leader) != from || m.leader < a.by || from != a.leader() {
			return
		}
		a.adopted, a.by = &m.vote, m.leader
		a.say(from, agreeMessage{phase: phaseAccept, leader: m.leader, adopted: -1})
	case phaseAccept:
		if int(m.leader) == a.me && a.proposed != nil {
			a.accepts[from] = true
		}
	}
	a.step()
}

func (a *agreement) decide(v vote) {
	a.decided = &v
	if a.leader() == a.me {
		a.tellDecision()
	}
}

// step does what can be done now.
func (a *agreement) step() {
	if a.mine == nil || a.decided != nil {
		return
	}
	l := a.leader()
	if a.told != int32(l) {
		a.told = int32(l)
		m := agreeMessage{phase: phaseVote, leader: int32(l), adopted: -1, vote: *a.mine}
		if a.by >= 0 {
			m.adopted, m.vote = a.by, *a.adopted
		}
		if l != a.me {
			a.say(l, m)
		} else {
			a.votes[a.me] = &m
		}
	}
	if l != a.me {
		return
	}
	if a.proposed == nil {
		v, ready := a.gather()
		if !ready {
			return
		}
		a.proposed, a.adopted, a.by = &v, &v, int32(a.me)
		a.accepts[a.me] = true
		for r := range a.n {
			a.say(r, agreeMessage{phase: phasePropose, leader: int32(a.me), adopted: -1, vote: v})
		}
	}
	for r := range a.n {
		if !a.dead[r] && !a.accepts[r] {
			return
		}
	}
	a.decide(*a.proposed)
}

// gather returns what the leader must propose, once all that live have voted.
func (a *agreement) gather() (v vote, ready bool) {
	latest := int32(-1)
	v = vote{flag: ^uint64(0), failed: newRankSet(a.n), acked: newRankSet(a.n)}
	for i := range v.acked {
		v.acked[i] = 0xff
	}
	for r := range a.n {
		if a.dead[r] {
			v.failed.add(r)
			continue
		}
		m := a.votes[r]
		if m == nil {
			return v, false
		}
		if m.adopted > latest {
			latest = m.adopted
		}
	}
	for r := range a.n {
		if m := a.votes[r]; m != nil && m.adopted >= 0 && m.adopted == latest && !a.dead[r] {
			return m.vote, true
		}
	}
	for r := range a.n {
		if m := a.votes[r]; m != nil && !a.dead[r] {
			v.flag &= m.vote.flag
			v.failed.join(m.vote.failed)
			v.acked.share(m.vote.acked)
		}
	}
	for r := range a.n { // what is acknowledged has failed
		if !v.failed.has(r) {
			v.acked[r/8] &^= 1 << (r % 8)
		}
	}
	if a.n%8 != 0 {
		v.acked[len(v.acked)-1] &= 1<<(a.n%8) - 1
	}
	return v, true
}
