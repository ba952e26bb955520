package tun

import (
	"sync"
	"time"
)

const (
	// maxFlows bounds the flows with one peer; the one that was silent for
	// longest makes room.
	maxFlows = 4096
	// maxFragmented bounds the fragmented packets of one peer that are under
	// way.
	maxFragmented = 64
)

// How long a flow is remembered after its last packet. RFC 5382, section 5,
// asks for two hours and four minutes of an established connection, RFC 4787,
// section 4.3, for two minutes of UDP. Memory is bounded otherwise, so that
// connections that only rest may rest for a day.
const (
	tcpOpening     = 4 * time.Minute
	tcpEstablished = 24 * time.Hour
	tcpClosing     = time.Minute
	udpLife        = 5 * time.Minute
	otherLife      = time.Minute
	fragmentLife   = 30 * time.Second
)

// A verdict says what becomes of a packet of a peer's.
type verdict uint8

const (
	pass           verdict = iota
	closedByPolicy         // nothing asked for it, and no rule opens its port
	unrelated              // an ICMP message about no flow, or one that nobody needs
	unknownPart            // a fragment whose first one did not pass
)

// What has been seen of a flow.
const (
	seenOut = 1 << iota // a packet of ours
	seenIn
	finOut
	finIn
	wasReset
)

// A flow is a conversation with a peer that packets may pass for.
type flow struct {
	key          flowKey
	seen         uint8
	expires      time.Time
	older, newer *flow
}

// A flowTable is the packet filter toward one peer. Whatever we send may leave,
// and its answers come in; what the peer begins needs a rule. ICMP errors about
// a flow pass. It is safe for concurrent use.
type flowTable struct {
	mu        sync.Mutex // guards what follows
	flows     map[flowKey]*flow
	oldest    *flow
	newest    *flow
	fragments map[fragmentKey]time.Time // of packets whose first fragment passed, until when
	evicted   uint64
}

type fragmentKey struct {
	version, proto uint8
	id             uint32
}

// outbound notes a packet of ours.
func (t *flowTable) outbound(now time.Time, p *packet) {
	if p.fragment == laterFragment || p.isICMP() && !p.isEchoRequest() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.find(now, p.outboundKey())
	if f == nil {
		if p.proto == protoTCP && p.flags&tcpRST != 0 {
			return
		}
		f = t.add(p.outboundKey())
	}
	if p.opensTCP() && f.seen&(finOut|finIn|wasReset) != 0 {
		f.seen = 0 // the ports are used again
	}
	t.touch(now, f, p, seenOut, finOut)
}

// inbound decides on a packet of the peer's. Opens tells whether a rule lets
// the peer begin something on a port; 0 stands for ICMP echo. The bytes of the
// packet are b.
func (t *flowTable) inbound(now time.Time, p *packet, b []byte, opens func(port uint16) bool) verdict {
	t.mu.Lock()
	f := t.find(now, p.inboundKey())
	if p.fragment == laterFragment {
		defer t.mu.Unlock()
		if until, ok := t.fragments[p.fragmentKey()]; ok && now.Before(until) {
			return pass
		}
		return unknownPart
	}
	if p.isICMPError() {
		defer t.mu.Unlock()
		if q, err := parseQuote(b[p.transport+8:]); err == nil && q.src == p.dst && q.dst == p.src && t.find(now, q.outboundKey()) != nil {
			return pass
		}
		return unrelated
	}
	if f != nil && p.opensTCP() && f.seen != seenOut {
		f = nil // unless both open it at once, the peer begins something
	}
	if f != nil {
		t.touch(now, f, p, seenIn, finIn)
		t.passFragments(now, p)
		t.mu.Unlock()
		return pass
	}
	t.mu.Unlock()

	port := p.dstPort
	switch {
	case p.proto == protoTCP, p.proto == protoUDP:
		if port == 0 {
			return closedByPolicy
		}
	case p.isEchoRequest():
	case p.isICMP():
		return unrelated
	default:
		return closedByPolicy
	}
	if !opens(port) {
		return closedByPolicy
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f = t.find(now, p.inboundKey()); f == nil {
		f = t.add(p.inboundKey())
	} else if p.opensTCP() {
		f.seen = 0
	}
	t.touch(now, f, p, seenIn, finIn)
	t.passFragments(now, p)
	return pass
}

// passFragments lets the rest of a packet through whose first fragment passes.
func (t *flowTable) passFragments(now time.Time, p *packet) {
	if p.fragment != firstFragment {
		return
	}
	if t.fragments == nil {
		t.fragments = make(map[fragmentKey]time.Time)
	}
	if len(t.fragments) >= maxFragmented {
		for k := range t.fragments { // whichever: they are under way for milliseconds
			delete(t.fragments, k)
			break
		}
	}
	t.fragments[p.fragmentKey()] = now.Add(fragmentLife)
}

func (p *packet) fragmentKey() fragmentKey { return fragmentKey{p.version, p.proto, p.fragmentID} }

// find returns the flow of that key, nil if there is none now.
func (t *flowTable) find(now time.Time, k flowKey) *flow {
	f := t.newest
	if f == nil || f.key != k {
		if f = t.flows[k]; f == nil {
			return nil
		}
	}
	if !now.Before(f.expires) {
		t.remove(f)
		return nil
	}
	return f
}

func (t *flowTable) add(k flowKey) *flow {
	if t.flows == nil {
		t.flows = make(map[flowKey]*flow)
	}
	if len(t.flows) >= maxFlows {
		t.remove(t.oldest)
		t.evicted++
	}
	f := &flow{key: k}
	t.flows[k] = f
	t.link(f)
	return f
}

func (t *flowTable) link(f *flow) {
	f.older, f.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = f
	} else {
		t.oldest = f
	}
	t.newest = f
}

func (t *flowTable) unlink(f *flow) {
	if f.older != nil {
		f.older.newer = f.newer
	} else {
		t.oldest = f.newer
	}
	if f.newer != nil {
		f.newer.older = f.older
	} else {
		t.newest = f.older
	}
}

func (t *flowTable) remove(f *flow) {
	t.unlink(f)
	delete(t.flows, f.key)
}

// touch notes a packet of a flow, sent by the side that seen and fin stand for.
func (t *flowTable) touch(now time.Time, f *flow, p *packet, seen, fin uint8) {
	f.seen |= seen
	life := otherLife
	switch p.proto {
	case protoTCP:
		if p.flags&tcpFIN != 0 {
			f.seen |= fin
		}
		if p.flags&tcpRST != 0 {
			f.seen |= wasReset
		}
		switch {
		case f.seen&wasReset != 0, f.seen&(finOut|finIn) == finOut|finIn:
			life = tcpClosing
		case f.seen&(seenOut|seenIn) == seenOut|seenIn:
			life = tcpEstablished
		default:
			life = tcpOpening
		}
	case protoUDP:
		life = udpLife
	}
	f.expires = now.Add(life)
	if t.newest != f {
		t.unlink(f)
		t.link(f)
	}
}

// expire forgets what is over at now, and returns how many flows are left.
func (t *flowTable) expire(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		if !now.Before(f.expires) {
			t.remove(f)
		}
	}
	for k, until := range t.fragments {
		if !now.Before(until) {
			delete(t.fragments, k)
		}
	}
	return len(t.flows)
}

// count returns how many flows there are, and how many made room for others.
func (t *flowTable) count() (flows int, evicted uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows), t.evicted
}
