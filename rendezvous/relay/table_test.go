package relay

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

var t0 = time.Unix(1_700_000_000, 0)

func peerID(fill byte) (id ri2n.PeerID) {
	for i := range id {
		id[i] = fill
	}
	return id
}

// A rig is a table with a clock that tests move.
type rig struct {
	*testing.T
	*table
	now time.Time
}

func newRig(t *testing.T, mode Mode, limits Limits) *rig {
	limits = limits.withDefaults()
	return &rig{
		T:     t,
		table: newTable(limits, newAdmission(mode, limits.GuestRate, limits.GuestQuota), [2]uint16{3478, 3479}),
		now:   t0,
	}
}

// from returns an address in prefix number net.
func from(net, host int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(net >> 8), byte(net), byte(host)}), 4000)
}

// join brings a registered agent in.
func (r *rig) join(fill byte) *Agent {
	r.Helper()
	a := r.arrive(r.now, peerID(fill), from(int(fill), 1), 1200)
	r.receive(r.now, a, protocol.Register{Sequence: 1})
	if !a.registered {
		r.Fatalf("agent %d was not registered: %v", fill, r.read(a))
	}
	r.read(a)
	return a
}

// read empties the outbox of a, as a writer would.
func (r *rig) read(a *Agent) []protocol.Message {
	m := a.outbox
	a.outbox, a.writing = nil, false
	return m
}

// wants compares what a is told.
func (r *rig) wants(a *Agent, want ...protocol.Message) {
	r.Helper()
	got := r.read(a)
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		r.Errorf("peer %s is told\n%+v, want\n%+v", a.peer.Short(), got, want)
	}
}

// sends has a send one datagram on channel and reports whether it passed.
func (r *rig) sends(a *Agent, channel uint64, size int) bool {
	_, ok := r.datagram(r.now, a, protocol.AppendFrame(nil, channel, bytes.Repeat([]byte{0x40}, size)))
	return ok
}

// joined opens a channel between two new agents and has both speak.
func (r *rig) joined() (a, b *Agent) {
	r.Helper()
	a, b = r.join(1), r.join(2)
	r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer})
	r.read(a)
	r.read(b)
	if !r.sends(a, 0, 100) || !r.sends(b, 1, 100) {
		r.Fatal("a fresh channel does not pass datagrams")
	}
	return a, b
}

func TestOpenAndFirstDatagramsInAnyOrder(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)

	for i := range 10 {
		if r.sends(a, 0, 1+i) {
			t.Errorf("datagram %d passed before its channel was opened", i)
		}
	}
	passed := r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer})
	if len(passed) != 8 {
		t.Fatalf("%d held datagrams passed, want 8", len(passed))
	}
	for i, p := range passed {
		if p.to != b || p.number != 1 || p.flow != a.id || len(p.packet) != 1+i {
			t.Errorf("datagram %d goes to %s as channel %d with %d bytes", i, p.to.peer.Short(), p.number, len(p.packet))
		}
	}
	r.wants(a, protocol.Opened{Channel: 0, Size: 1199})
	r.wants(b, protocol.Incoming{Channel: 1, Key: 7, Generation: 1, Source: a.peer, Size: 1199})
	if got := r.counters.DatagramsDropped[dropHoldFull]; got != 2 {
		t.Errorf("dropped for a full hold = %d, want 2", got)
	}
}

func TestHeldDatagramsExpire(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)
	r.sends(a, 0, 100)
	r.now = r.now.Add(time.Second)
	if passed := r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer}); len(passed) != 0 {
		t.Errorf("%d datagrams passed after a second, want none", len(passed))
	}
	r.sends(a, 2, 100)
	r.now = r.now.Add(time.Second)
	r.expire(r.now)
	if got := r.counters.DatagramsDropped[dropHoldExpired]; got != 1 || a.hold.Len() != 0 {
		t.Errorf("expired = %d, still held = %d; want 1, 0", got, a.hold.Len())
	}
}

// ri2n.md, section 7: the target consents by its first datagram back; until
// then 8 datagrams pass.
func TestTargetConsentsByItsFirstDatagram(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)
	r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer})
	passed := 0
	for range 20 {
		if r.sends(a, 0, 1000) {
			passed++
		}
	}
	if passed != 8 {
		t.Errorf("%d datagrams passed before consent, want 8", passed)
	}
	if !r.sends(b, 1, 100) {
		t.Error("the target's answer did not pass")
	}
	for i := range 20 {
		if !r.sends(a, 0, 1000) {
			t.Fatalf("datagram %d after consent was dropped", i)
		}
	}
	r.now = r.now.Add(consentTime)
	r.expire(r.now)
	if len(r.channels) != 1 {
		t.Error("a channel with consent was closed")
	}
}

func TestUnansweredChannelCloses(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)
	r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer})
	r.read(a)
	r.read(b)
	r.now = r.now.Add(consentTime - 1)
	r.expire(r.now)
	r.wants(a)
	r.now = r.now.Add(1)
	r.expire(r.now)
	r.wants(a, protocol.Closed{Channel: 0, Reason: protocol.ReasonNoConsent})
	r.wants(b, protocol.Closed{Channel: 1, Reason: protocol.ReasonNoConsent})
}

func TestTwoThatOpenTowardEachOtherHaveConsented(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)
	r.receive(r.now, a, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: b.peer})
	r.receive(r.now, b, protocol.Open{Channel: 0, Key: 9, Generation: 1, Target: a.peer})
	for i := range 20 {
		if !r.sends(a, 0, 100) || !r.sends(b, 0, 100) {
			t.Fatalf("datagram %d was dropped", i)
		}
	}
}

func TestOldGenerationsAreDropped(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.joined()
	r.receive(r.now, a, protocol.Open{Channel: 2, Key: 7, Generation: 2, Target: b.peer})
	r.wants(a, protocol.Opened{Channel: 2, Size: 1199})
	r.wants(b,
		protocol.Closed{Channel: 1, Reason: protocol.ReasonSuperseded},
		protocol.Incoming{Channel: 3, Key: 7, Generation: 2, Source: a.peer, Size: 1199})
	if r.sends(a, 0, 100) || r.sends(b, 1, 100) {
		t.Error("a datagram of the old generation passed")
	}
	if !r.sends(a, 2, 100) {
		t.Error("a datagram of the new generation was dropped")
	}
	for _, generation := range []uint64{1, 2} {
		number := 2 + 2*generation
		r.receive(r.now, a, protocol.Open{Channel: number, Key: 7, Generation: generation, Target: b.peer})
		r.wants(a, protocol.Refused{Channel: number, Reason: protocol.ReasonStale})
	}
	if !r.sends(a, 2, 100) {
		t.Error("a stale OPEN closed the channel")
	}
	if got := r.counters.DatagramsDropped[dropUnknownChannel]; got != 2 {
		t.Errorf("dropped = %d, want 2", got)
	}
}

func TestOpenIsRefusedWithItsReason(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits Limits
		target byte
		before func(r *rig, a *Agent)
		want   protocol.Reason
	}{
		{"nobody there", Limits{}, 9, nil, protocol.ReasonUnknownPeer},
		{"to itself", Limits{}, 1, nil, protocol.ReasonUnknownPeer},
		{"too many of ours", Limits{ChannelsPerPeer: 1}, 2, func(r *rig, a *Agent) {
			r.now = r.now.Add(time.Second)
			r.receive(r.now, a, protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: peerID(2)})
			r.now = r.now.Add(time.Second)
		}, protocol.ReasonLimit},
		{"too many between two", Limits{}, 2, func(r *rig, a *Agent) {
			for i := range uint64(channelsPerPair) {
				r.receive(r.now, a, protocol.Open{Channel: 2 * i, Key: i, Generation: 1, Target: peerID(2)})
			}
		}, protocol.ReasonLimit},
		{"too many of theirs", Limits{IncomingPerPeer: 1}, 2, func(r *rig, a *Agent) {
			r.receive(r.now, r.join(3), protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: peerID(2)})
		}, protocol.ReasonBusy},
		{"too many in all", Limits{Channels: 1}, 2, func(r *rig, a *Agent) {
			r.receive(r.now, r.join(3), protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: peerID(4)})
		}, protocol.ReasonBusy},
		{"too fast", Limits{ChannelsPerPeer: 2}, 2, func(r *rig, a *Agent) {
			for i := range uint64(2) {
				r.receive(r.now, a, protocol.Open{Channel: 2 * i, Key: i, Generation: 1, Target: peerID(9)})
			}
		}, protocol.ReasonBusy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Open, tt.limits)
			a := r.join(1)
			r.join(2)
			r.join(4)
			if tt.before != nil {
				tt.before(r, a)
			}
			r.read(a)
			r.sends(a, 100, 50) // must be forgotten with the refusal
			r.receive(r.now, a, protocol.Open{Channel: 100, Key: 77, Generation: 1, Target: peerID(tt.target)})
			r.wants(a, protocol.Refused{Channel: 100, Reason: tt.want})
			if r.counters.ChannelsRefused[tt.want] == 0 {
				t.Error("the refusal was not counted")
			}
			if a.hold.Len() != 0 {
				t.Errorf("%d datagrams still held", a.hold.Len())
			}
		})
	}
}

func TestRegistrationIsForgottenAfterSilence(t *testing.T) {
	r := newRig(t, Open, Limits{Lifetime: 60 * time.Second})
	a, b := r.joined()
	for range 3 {
		r.now = r.now.Add(20 * time.Second)
		r.receive(r.now, b, protocol.Register{Sequence: 2})
		r.expire(r.now)
		r.read(b)
		if a.gone && r.now.Before(t0.Add(60*time.Second)) {
			t.Fatalf("forgotten after %v", r.now.Sub(t0))
		}
	}
	if !a.gone || a.reason != protocol.ReasonNotRegistered {
		t.Errorf("after 60 s: gone = %v, reason %v", a.gone, a.reason)
	}
	if b.gone || r.peers[b.peer] != b {
		t.Error("a refreshed registration was forgotten")
	}
	if r.peers[a.peer] != nil || len(r.channels) != 0 {
		t.Error("a channel or a registration is left")
	}
	r.receive(r.now, b, protocol.Open{Channel: 0, Key: 5, Generation: 1, Target: a.peer})
	r.wants(b, protocol.Refused{Channel: 0, Reason: protocol.ReasonUnknownPeer})
}

func TestNewerSessionOfAPeerReplacesTheOlder(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.joined()
	again := r.arrive(r.now, a.peer, from(50, 1), 1200)
	r.receive(r.now, again, protocol.Register{Sequence: 1})
	if !a.gone || a.reason != protocol.ReasonSuperseded || r.peers[a.peer] != again {
		t.Errorf("old session: gone = %v, reason %v", a.gone, a.reason)
	}
	r.wants(b, protocol.Closed{Channel: 1, Reason: protocol.ReasonSuperseded})
	r.leave(r.now, a)
	if r.peers[a.peer] != again {
		t.Error("the old session took the new registration with it")
	}
}

func TestRegistrationLimits(t *testing.T) {
	r := newRig(t, Open, Limits{Registrations: 3, RegistrationsPerPrefix: 2})
	try := func(fill byte, remote netip.AddrPort) *Agent {
		a := r.arrive(r.now, peerID(fill), remote, 1200)
		r.receive(r.now, a, protocol.Register{Sequence: 1})
		return a
	}
	first := try(1, from(1, 1))
	try(2, from(1, 2))
	if a := try(3, from(1, 3)); !a.gone || a.reason != protocol.ReasonBusy {
		t.Error("a third of one prefix was let in")
	}
	if a := try(1, from(1, 9)); a.gone || !first.gone {
		t.Error("a peer that comes back has no place")
	}
	try(4, from(2, 1))
	if a := try(5, from(3, 1)); !a.gone {
		t.Error("a fourth in all was let in")
	}
}

func TestOversizeIsDroppedAndSizesAreTold(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.joined()
	if r.sends(a, 0, 1200) {
		t.Error("a packet above the size passed")
	}
	r.resize(a, 1400) // b still limits
	r.wants(a)
	r.resize(b, 1300)
	r.wants(a, protocol.MaxSize{Channel: 0, Size: 1299})
	r.wants(b, protocol.MaxSize{Channel: 1, Size: 1299})
	r.resize(b, 900)
	r.wants(a, protocol.MaxSize{Channel: 0, Size: 1000}) // never below 1000
}

func TestIdleChannelCloses(t *testing.T) {
	r := newRig(t, Open, Limits{Lifetime: time.Hour})
	a, b := r.joined()
	r.now = r.now.Add(channelIdle - 1)
	r.sends(b, 1, 10)
	r.now = r.now.Add(channelIdle - 1)
	r.expire(r.now)
	if len(r.channels) != 1 {
		t.Fatal("a channel in use was closed")
	}
	r.now = r.now.Add(1)
	r.expire(r.now)
	r.wants(a, protocol.Closed{Channel: 0, Reason: protocol.ReasonIdle})
	r.wants(b, protocol.Closed{Channel: 1, Reason: protocol.ReasonIdle})
}

func TestPeerRateIsPoliced(t *testing.T) {
	r := newRig(t, Open, Limits{RelayRate: 1_000_000})
	a, b := r.joined()
	passed := 0
	for range 10_000 { // 10 s at twice the rate
		for range 2 {
			if r.sends(a, 0, 1000) {
				passed += 1000
			}
		}
		r.now = r.now.Add(time.Millisecond)
	}
	if passed < 9_900_000 || passed > 10_300_000 {
		t.Errorf("%d bytes passed in 10 s at 1 MB/s", passed)
	}
	if !r.sends(b, 1, 1000) {
		t.Error("the other peer pays for the hog")
	}
	// Coming back does not refill the allowance.
	for r.sends(a, 0, 1000) {
	}
	again := r.arrive(r.now, a.peer, a.remote, 1200)
	r.receive(r.now, again, protocol.Register{Sequence: 1})
	r.receive(r.now, again, protocol.Open{Channel: 0, Key: 7, Generation: 9, Target: b.peer})
	if r.sends(again, 0, 1000) {
		t.Error("a new session has a fresh allowance")
	}
}

func TestEachSenderIsOneFlow(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b := r.join(1), r.join(2)
	flows := map[uint64]bool{}
	for i := range uint64(4) {
		r.receive(r.now, a, protocol.Open{Channel: 2 * i, Key: i, Generation: 1, Target: b.peer})
		out, ok := r.datagram(r.now, a, protocol.AppendFrame(nil, 2*i, []byte{0x40}))
		if !ok {
			t.Fatal("dropped")
		}
		flows[out.flow] = true
	}
	if len(flows) != 1 {
		t.Errorf("four channels of one sender are %d flows, want 1: a hog would have four shares", len(flows))
	}
}

func TestMembersOnly(t *testing.T) {
	r := newRig(t, Members, Limits{})
	r.admission.setMembers([]ri2n.PeerID{peerID(1)})
	for range 10_000 {
		if got := r.admission.authorize(r.now, peerID(2)); got != roleRefused {
			t.Fatalf("a stranger got role %v", got)
		}
	}
	if len(r.admission.strangers) != 0 {
		t.Errorf("state for %d refused strangers", len(r.admission.strangers))
	}
	a := r.join(1)
	r.admission.setMembers(nil)
	r.expire(r.now)
	if !a.gone || a.reason != protocol.ReasonNotAdmitted {
		t.Errorf("a peer taken off the list: gone = %v, reason %v", a.gone, a.reason)
	}
}

// deposited is a members-only table with the member 1, who deposited a token.
func deposited(t *testing.T, limits Limits) (r *rig, owner *Agent, key rendezvous.Key) {
	r = newRig(t, Members, limits)
	r.admission.setMembers([]ri2n.PeerID{peerID(1), peerID(2)})
	owner = r.join(1)
	key = rendezvous.Key{1, 2, 3}
	r.receive(r.now, owner, protocol.Deposit{Request: 1, Digest: key.Digest(), Expiry: r.now.Add(time.Hour)})
	r.wants(owner, protocol.OK{Request: 1})
	return r, owner, key
}

// stranger comes in as far as an unknown peer can.
func (r *rig) stranger(fill byte) *Agent {
	r.Helper()
	if got := r.admission.authorize(r.now, peerID(fill)); got != roleStranger {
		r.Fatalf("authorize(%d) = %v, want roleStranger", fill, got)
	}
	return r.arrive(r.now, peerID(fill), from(int(fill), 1), 1200)
}

func TestTokenAdmitsOneGuestToItsSender(t *testing.T) {
	r, owner, key := deposited(t, Limits{})
	member := r.join(2)
	guest := r.stranger(3)
	r.receive(r.now, guest, protocol.Admit{Request: 1, Key: key})
	r.receive(r.now, guest, protocol.Register{Sequence: 1})
	if got := r.read(guest); len(got) != 3 || got[0] != (protocol.OK{Request: 1}) || !guest.registered {
		t.Fatalf("the guest is told %+v", got)
	}
	r.receive(r.now, guest, protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: owner.peer})
	r.receive(r.now, guest, protocol.Open{Channel: 2, Key: 2, Generation: 1, Target: member.peer})
	r.wants(guest, protocol.Opened{Channel: 0, Size: 1199}, protocol.Refused{Channel: 2, Reason: protocol.ReasonNotAdmitted})
	r.receive(r.now, member, protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: guest.peer})
	r.wants(member, protocol.Refused{Channel: 0, Reason: protocol.ReasonUnknownPeer})
	r.receive(r.now, guest, protocol.Deposit{Request: 9, Digest: [32]byte{1}, Expiry: r.now.Add(time.Hour)})
	r.wants(guest, protocol.Error{Request: 9, Reason: protocol.ReasonNotAdmitted})

	// Somebody else with the same token.
	second := r.stranger(4)
	r.receive(r.now, second, protocol.Admit{Request: 5, Key: key})
	r.wants(second, protocol.Error{Request: 5, Reason: protocol.ReasonTokenUsed})
	if !second.gone {
		t.Error("a second guest keeps its session")
	}
	// The guest may come back, without showing the key again.
	r.leave(r.now, guest)
	if got := r.admission.authorize(r.now, guest.peer); got != roleGuest {
		t.Errorf("the guest comes back as %v, want roleGuest", got)
	}
}

func TestTokenThatDoesNotHold(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration
		key  rendezvous.Key
		want protocol.Reason
	}{
		{"wrong key", 0, rendezvous.Key{9}, protocol.ReasonTokenUnknown},
		{"expired", time.Hour, rendezvous.Key{1, 2, 3}, protocol.ReasonTokenExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _, _ := deposited(t, Limits{})
			r.now = r.now.Add(tt.wait)
			r.expire(r.now)
			guest := r.stranger(3)
			r.receive(r.now, guest, protocol.Admit{Request: 5, Key: tt.key})
			r.wants(guest, protocol.Error{Request: 5, Reason: tt.want})
			if !guest.gone || guest.reason != tt.want {
				t.Errorf("gone = %v, reason %v", guest.gone, guest.reason)
			}
		})
	}
}

func TestStrangerMayOnlyShowAKey(t *testing.T) {
	r, _, _ := deposited(t, Limits{})
	for name, m := range map[string]protocol.Message{
		"register": protocol.Register{Sequence: 1},
		"open":     protocol.Open{Channel: 0, Target: peerID(1)},
		"deposit":  protocol.Deposit{Request: 1, Expiry: t0.Add(time.Hour)},
	} {
		s := r.stranger(7)
		r.sends(s, 0, 100)
		r.receive(r.now, s, m)
		if s.registered || len(s.ends) != 0 {
			t.Errorf("%s: a stranger got something", name)
		}
		r.leave(r.now, s)
	}
	slow := r.stranger(8)
	r.now = r.now.Add(strangerTime)
	r.expire(r.now)
	if got := r.read(slow); !slow.gone || len(got) != 1 {
		t.Errorf("after %v: gone = %v, told %+v", strangerTime, slow.gone, got)
	}
	if len(r.admission.strangers) == 0 {
		t.Error("the stranger's place was given away while its session lives")
	}
	r.leave(r.now, slow)
	if len(r.admission.strangers) != 0 || len(r.strange) != 0 {
		t.Errorf("places left: %d, %d", len(r.admission.strangers), len(r.strange))
	}
}

func TestStrangersAreBounded(t *testing.T) {
	r, _, _ := deposited(t, Limits{})
	let := 0
	for i := range 10_000 {
		id := peerID(9)
		id[0], id[1] = byte(i), byte(i>>8)
		if r.admission.authorize(r.now, id) == roleStranger {
			let++
		}
	}
	if let != maxStrangers {
		t.Errorf("%d strangers let in, want %d", let, maxStrangers)
	}
	// A handshake that never completed gives its place back.
	r.now = r.now.Add(handshakeTime + strangerTime)
	if got := r.admission.authorize(r.now, peerID(9)); got != roleStranger {
		t.Errorf("after the places expired: %v, want roleStranger", got)
	}

	let = 0
	for i := range 100 {
		id := peerID(10)
		id[0] = byte(i)
		if a := r.arrive(r.now, id, from(77, i), 1200); !a.gone {
			let++
		}
	}
	if let != maxStrangersPerPrefix {
		t.Errorf("%d strangers of one prefix let in, want %d", let, maxStrangersPerPrefix)
	}
}

func TestGuestQuota(t *testing.T) {
	r, owner, key := deposited(t, Limits{GuestQuota: 10_000, GuestRate: -1})
	guest := r.stranger(3)
	r.receive(r.now, guest, protocol.Admit{Request: 1, Key: key})
	r.receive(r.now, guest, protocol.Register{Sequence: 1})
	r.receive(r.now, owner, protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: guest.peer})
	r.read(owner)
	r.read(guest)
	r.sends(guest, 1, 1000)
	passed := 1
	for range 20 {
		if r.sends(owner, 0, 1000) {
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d KB passed, want 10: both directions count", passed)
	}
	r.wants(owner, protocol.Closed{Channel: 0, Reason: protocol.ReasonQuota})
	r.wants(guest, protocol.Closed{Channel: 1, Reason: protocol.ReasonQuota})
	r.receive(r.now, owner, protocol.Open{Channel: 2, Key: 1, Generation: 2, Target: guest.peer})
	r.wants(owner, protocol.Refused{Channel: 2, Reason: protocol.ReasonQuota})
}

func TestGuestRate(t *testing.T) {
	r, owner, key := deposited(t, Limits{})
	guest := r.stranger(3)
	r.receive(r.now, guest, protocol.Admit{Request: 1, Key: key})
	r.receive(r.now, guest, protocol.Register{Sequence: 1})
	r.receive(r.now, owner, protocol.Open{Channel: 0, Key: 1, Generation: 1, Target: guest.peer})
	r.sends(guest, 1, 1)
	passed := 0
	for range 1000 { // one second at 400 Mbit/s
		for range 50 {
			if r.sends(owner, 0, 1000) {
				passed += 1000
			}
		}
		r.now = r.now.Add(time.Millisecond)
	}
	// 100 Mbit/s and a burst of a tenth of a second.
	if passed < 12_400_000 || passed > 13_800_000 {
		t.Errorf("%d bytes passed in a second, want 12.5 MB and a burst", passed)
	}
}

func TestWithdrawnDeposit(t *testing.T) {
	r, owner, key := deposited(t, Limits{})
	withdraw := protocol.Deposit{Request: 2, Digest: key.Digest(), Expiry: time.Unix(0, 0)}
	other := r.join(2)
	r.receive(r.now, other, withdraw)
	r.wants(other, protocol.Error{Request: 2, Reason: protocol.ReasonTokenUsed})
	r.receive(r.now, owner, withdraw)
	r.wants(owner, protocol.OK{Request: 2})
	if got := r.admission.authorize(r.now, peerID(3)); got != roleRefused {
		t.Errorf("a stranger is %v after the last deposit was withdrawn", got)
	}

	r.receive(r.now, owner, protocol.Deposit{Request: 3, Digest: key.Digest(), Expiry: r.now.Add(time.Hour)})
	guest := r.stranger(3)
	r.receive(r.now, guest, protocol.Admit{Request: 1, Key: key})
	r.receive(r.now, owner, withdraw)
	r.expire(r.now)
	if guest.gone {
		t.Error("a guest is cut off in the moment of withdrawal")
	}
	r.now = r.now.Add(withdrawGrace)
	r.expire(r.now)
	if !guest.gone {
		t.Error("a guest stays after its token was withdrawn")
	}
}

func TestDepositsAreBounded(t *testing.T) {
	r, owner, _ := deposited(t, Limits{})
	refused := 0
	for i := range 100 {
		r.receive(r.now, owner, protocol.Deposit{Request: uint32(i), Digest: [32]byte{9, byte(i)}, Expiry: r.now.Add(time.Hour)})
	}
	for _, m := range r.read(owner) {
		if e, ok := m.(protocol.Error); ok && e.Reason == protocol.ReasonLimit {
			refused++
		}
	}
	if want := 101 - maxDepositsPerOwner; refused != want {
		t.Errorf("%d deposits refused, want %d", refused, want)
	}
	r.now = r.now.Add(maxDepositLife + rememberExpired)
	r.expire(r.now)
	if n := len(r.admission.deposits); n != 0 || len(r.admission.owned) != 0 {
		t.Errorf("%d deposits and %d owners left", n, len(r.admission.owned))
	}
}

func TestViolationsEndThatSessionOnly(t *testing.T) {
	for name, m := range map[string]protocol.Message{
		"odd channel":            protocol.Open{Channel: 1, Target: peerID(2)},
		"channel used before":    protocol.Open{Channel: 0, Key: 8, Generation: 1, Target: peerID(2)},
		"answer of the server":   protocol.Opened{Channel: 0},
		"second hello":           protocol.Hello{Version: 1},
		"incoming from a client": protocol.Incoming{Channel: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Open, Limits{})
			a, b := r.joined()
			r.receive(r.now, a, m)
			if !a.gone || a.reason != protocol.ReasonProtocol {
				t.Errorf("gone = %v, reason %v", a.gone, a.reason)
			}
			if b.gone || r.peers[b.peer] != b {
				t.Error("the other session suffers")
			}
			r.wants(b, protocol.Closed{Channel: 1, Reason: protocol.ReasonPeerGone})
		})
	}
}

func TestAgentThatReadsNothingIsGivenUp(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a := r.join(1)
	for i := range maxOutbox + 10 {
		r.receive(r.now, a, protocol.Register{Sequence: uint32(i)})
	}
	if !a.gone || len(a.outbox) > maxOutbox {
		t.Errorf("gone = %v with %d messages queued", a.gone, len(a.outbox))
	}
	if err := r.check(); err != nil {
		t.Error(err)
	}
}

func TestMalformedDatagramsAreCountedAndNothingElse(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, _ := r.joined()
	for _, b := range [][]byte{nil, {0x40}, {0x00}, {0xc0, 0, 0}, {0x40, 0x01, 0x02}} {
		if _, ok := r.datagram(r.now, a, b); ok {
			t.Errorf("%x passed", b)
		}
	}
	if got := r.counters.DatagramsDropped[dropMalformed]; got != 5 || a.gone {
		t.Errorf("malformed = %d, gone = %v; want 5, false", got, a.gone)
	}
}

// Whatever agents do, what the table holds stays consistent and bounded.
func FuzzTable(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x10\x11\x20\x21\x30\x31"))
	f.Add([]byte{0x00, 0x10, 0x20, 0x01, 0x11, 0x21, 0x40, 0x41, 0x50, 0x60, 0x70, 0x80})
	f.Fuzz(func(t *testing.T, script []byte) {
		limits := Limits{ChannelsPerPeer: 3, IncomingPerPeer: 4, Channels: 6, Registrations: 4}
		r := newRig(t, Open, limits)
		var agents [4]*Agent
		for i, op := range script {
			n := int(op & 3)
			a := agents[n]
			if a == nil {
				a = r.arrive(r.now, peerID(byte(n)), from(n, 1), 1200)
				agents[n] = a
			}
			arg := uint64(op >> 2 & 3)
			switch op >> 4 {
			case 0:
				r.receive(r.now, a, protocol.Register{})
			case 1, 2:
				r.receive(r.now, a, protocol.Open{Channel: uint64(i) &^ 1, Key: arg, Generation: uint64(i), Target: peerID(byte(arg))})
			case 3, 4, 5:
				r.sends(a, arg, 100)
			case 6:
				r.receive(r.now, a, protocol.Closed{Channel: arg})
			case 7:
				r.resize(a, 1000+int(arg)*100)
			case 8:
				r.leave(r.now, a)
				agents[n] = nil
			default:
				r.now = r.now.Add(time.Duration(arg) * 20 * time.Second)
				r.expire(r.now)
			}
			if op&0x80 != 0 {
				r.read(a)
			}
			if err := r.check(); err != nil {
				t.Fatalf("after step %d of %x: %v", i, script, err)
			}
		}
	})
}

// check verifies what must hold between calls.
func (r *rig) check() error {
	if len(r.channels) > r.limits.Channels {
		return fmt.Errorf("%d channels", len(r.channels))
	}
	ends := 0
	for a := range r.agents {
		opened, incoming := 0, 0
		for number, e := range a.ends {
			if _, live := r.channels[e.channel]; !live || e.number != number || e.agent != a {
				return fmt.Errorf("end %d of %s belongs to no channel", number, a.peer.Short())
			}
			if e.source {
				opened++
			} else {
				incoming++
			}
		}
		if opened != a.opened || incoming != a.incoming || opened > r.limits.ChannelsPerPeer || incoming > r.limits.IncomingPerPeer {
			return fmt.Errorf("%s has %d and %d channels, says %d and %d", a.peer.Short(), opened, incoming, a.opened, a.incoming)
		}
		if len(a.ends) > 0 && !a.registered {
			return fmt.Errorf("%s has channels and no registration", a.peer.Short())
		}
		ends += len(a.ends)
	}
	if ends != 2*len(r.channels) {
		return fmt.Errorf("%d ends of %d channels", ends, len(r.channels))
	}
	registered := 0
	for peer, a := range r.peers {
		if !a.registered || a.peer != peer || a.gone {
			return fmt.Errorf("%s is found and not registered", peer.Short())
		}
	}
	for _, n := range r.prefixes {
		registered += n
	}
	if registered != len(r.peers) {
		return fmt.Errorf("prefixes count %d registrations of %d", registered, len(r.peers))
	}
	return nil
}

func TestAddressIsShownToTheOtherEndAlone(t *testing.T) {
	r := newRig(t, Open, Limits{})
	a, b, c := r.join(1), r.join(2), r.join(3)
	r.receive(r.now, a, protocol.Open{Channel: 2, Key: 1, Generation: 1, Target: peerID(2)})
	r.read(a)
	r.read(b)

	// Before the target has consented, nothing reaches it.
	r.receive(r.now, a, protocol.Show{Channel: 2})
	r.wants(b)
	r.sends(b, 1, 100)
	r.receive(r.now, a, protocol.Show{Channel: 2})
	r.wants(b, protocol.Shown{Channel: 1, Addr: from(1, 1)})
	r.receive(r.now, b, protocol.Show{Channel: 1})
	r.wants(a, protocol.Shown{Channel: 2, Addr: from(2, 1)})

	// Too soon, and on a channel of others.
	r.receive(r.now, a, protocol.Show{Channel: 2})
	r.receive(r.now, c, protocol.Show{Channel: 2})
	r.wants(b)
	r.now = r.now.Add(showAgain)
	r.receive(r.now, a, protocol.Show{Channel: 2})
	r.wants(b, protocol.Shown{Channel: 1, Addr: from(1, 1)})
	if got := r.counters; got.Shown != 3 || got.ShowsDropped != 3 {
		t.Errorf("shown %d, dropped %d; want 3 and 3", got.Shown, got.ShowsDropped)
	}
}
