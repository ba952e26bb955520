package ri2n

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A fuzzPeer is a session between two endpoints whose links are carriers in
// memory: no socket, no network.
type fuzzPeer struct {
	a, e   *Endpoint // e is the one under test
	to     Remote    // from a to e
	link   *Link     // of e
	cut    atomic.Bool
	client *Session
	server *Session // of e
	done   chan struct{}
	hoses  sync.WaitGroup
}

// A hose passes datagrams on, on a goroutine, unless its peer is cut off.
type hose struct {
	peer  *fuzzPeer
	queue chan []byte
}

func (h *hose) Send(b []byte) error {
	if h.peer.cut.Load() {
		return nil
	}
	select {
	case h.queue <- append([]byte(nil), b...):
	default:
	}
	return nil
}

func (h *hose) MaxDatagram() int { return baseSize }

func (h *hose) run(far *Link) {
	for {
		select {
		case b := <-h.queue:
			far.Deliver(b)
		case <-h.peer.done:
			return
		}
	}
}

func newFuzzPeer(tb testing.TB) *fuzzPeer {
	tb.Helper()
	tb = keepTB{tb}
	patient := func(c *Config) { c.IdleTimeout, c.KeepaliveInterval = 1000*time.Hour, -1 }
	p := &fuzzPeer{a: newTestEndpoint(tb, patient), e: newTestEndpoint(tb, patient), done: make(chan struct{})}
	ha, hb := &hose{p, make(chan []byte, 256)}, &hose{p, make(chan []byte, 256)}
	la, err := p.a.AddCarrier("a", ha)
	if err != nil {
		tb.Fatal(err)
	}
	if p.link, err = p.e.AddCarrier("b", hb); err != nil {
		tb.Fatal(err)
	}
	p.to = Remote{Link: la}
	p.hoses.Go(func() { ha.run(p.link) })
	p.hoses.Go(func() { hb.run(la) })
	p.renew(tb)
	return p
}

// renew makes a fresh session, and cuts it off once it is confirmed.
func (p *fuzzPeer) renew(tb testing.TB) {
	tb.Helper()
	if p.client != nil {
		p.end()
	}
	p.cut.Store(false)
	p.client, p.server = connectSessions(tb, p.a, p.e, p.to)
	st, dn := streamPair(tb, p.client, p.server)
	dn.Write([]byte{0})
	st.Read(make([]byte, 1))
	p.cut.Store(true)
	st.Write([]byte("some data"))
	dn.Write([]byte("some data"))
}

func (p *fuzzPeer) end() {
	p.client.CloseWithError(0, "")
	p.server.CloseWithError(0, "")
}

// close ends all without lingering for a peer that is cut off.
func (p *fuzzPeer) close() {
	p.end()
	p.a.Close()
	p.e.Close()
	close(p.done)
	p.hoses.Wait()
}

// keepTB lets what is made in one execution of a fuzz target live on.
type keepTB struct{ testing.TB }

func (keepTB) Cleanup(func()) {}

// joinDatagrams puts a length of two bytes before each datagram.
func joinDatagrams(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, byte(len(p)>>8), byte(len(p)))
		b = append(b, p...)
	}
	return b
}

// endpointDatagrams and sessionFrames are where the two targets begin.
func endpointDatagrams() map[string][][]byte {
	return map[string][][]byte{
		"crumbs":    {nil, {0x40}, {0xc0}, {0}},
		"initial":   {append([]byte{0xc0, 0x52, 0x32, 0, 1}, make([]byte, 40)...)},
		"handshake": {append([]byte{0xd0, 0x52, 0x32, 0, 1}, make([]byte, 60)...)},
		"short":     {append([]byte{0x40}, make([]byte, 60)...)},
	}
}

func sessionFrames() map[string][]byte {
	return map[string][]byte{
		"nothing":      []byte{},
		"ping":         appendPingFrame(nil),
		"ack":          appendAckFrame(nil, ackFrame{ranges: []ackRange{{0, 2}}}),
		"stream_ahead": append(appendStreamHeader(nil, 0, 10, 4, true, true), "abcd"...),
		"stream":       append(appendStreamHeader(nil, 4, 0, 4, true, false), "abcd"...),
		"reset":        appendResetStreamFrame(nil, resetStreamFrame{0, 1, 10}),
		"stop":         appendStopSendingFrame(nil, stopSendingFrame{0, 1}),
		"credit":       appendMaxStreamDataFrame(appendMaxDataFrame(nil, maxDataFrame{1 << 30}), maxStreamDataFrame{0, 1 << 30}),
		"limits":       appendMaxPathsFrame(appendMaxStreamsFrame(nil, maxStreamsFrame{limit: 1 << 20}), maxPathsFrame{99}),
		"suspect":      appendPathStatusFrame(nil, pathStatusFrame{path: 0, seq: 9, status: pathStatusSuspect}),
		"abandon":      appendPathAbandonFrame(appendPathAbandonFrame(nil, pathAbandonFrame{path: 0}), pathAbandonFrame{path: 4}),
		"challenge":    appendPathResponseFrame(appendPathChallengeFrame(nil, pathChallengeFrame{}), pathResponseFrame{}),
		"ack_freq":     appendAckFreqFrame(nil, ackFreqFrame{threshold: 1, delay: time.Second}),
		"datagram":     appendDatagramFrame(nil, datagramFrame{data: []byte("x")}),
		"close":        appendCloseFrame(nil, closeFrame{code: 5, reason: "x"}),
	}
}

// FuzzEndpointDatagram feeds raw datagrams to an endpoint with a session and a
// half-open handshake. Before each datagram stands its length in two bytes.
func FuzzEndpointDatagram(f *testing.F) {
	p := newFuzzPeer(f)
	f.Cleanup(p.close)
	hello := craftInitial(p.e.PeerID(), 7, 8, nil, append([]byte{1, 0, 5, 0}, make([]byte, 600)...))
	known := p.server.localIDs.cid(0, 0)
	from := netip.AddrPort{}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := receiver{endpoint: p.e, link: p.link, now: time.Now()}
		r.datagram(append([]byte(nil), hello...), from)
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			datagram := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			// A long header of ours, a short one of the session, and as it is.
			if len(datagram) >= longPrefixLen && datagram[0]&0xc0 == 0xc0 {
				key := p.e.macKey
				if h, _, _, err := parseLongHeader(datagram); err == nil && h.typ.hasMAC1() {
					mac := computeMAC1(&key, datagram[:longPrefixLen+2+len(h.token)])
					copy(datagram[longPrefixLen+2+len(h.token):], mac[:])
				}
			} else if len(datagram) >= shortHeaderLen && datagram[0]&0xc0 == 0x40 {
				r.datagram(append([]byte(nil), datagram...), from)
				datagram = append(appendShortHeader(nil, shortHeader{dcid: known, pn: 9}), datagram[shortHeaderLen:]...)
			}
			r.datagram(datagram, from)
		}
		r.finish()
		if err := p.server.Err(); err != nil {
			t.Fatalf("raw datagrams ended the session: %v", err)
		}
		p.e.mu.Lock()
		defer p.e.mu.Unlock()
		if p.e.halfOpen.count > maxHalfOpen || p.e.halfOpen.early > maxEarlyTotal || p.e.halfOpen.tombstones > maxTombstones {
			t.Fatalf("half-open state above its limits: %+v", p.e.halfOpen)
		}
	})
}

// FuzzAuthenticatedFrames feeds frames of an authenticated peer to a session.
// Whatever they are, the session lives on or closes with a code.
func FuzzAuthenticatedFrames(f *testing.F) {
	var (
		p      *fuzzPeer
		number packetNumber
	)
	f.Cleanup(func() {
		if p != nil {
			p.close()
		}
	})
	f.Fuzz(func(t *testing.T, frames []byte) {
		switch {
		case p == nil:
			p, number = newFuzzPeer(t), 1000
		case p.server.Err() != nil:
			p.renew(t)
			number = 1000
		}
		if len(frames) > 1100 {
			return
		}
		seal := func(path pathID, b []byte) []byte {
			p.client.mu.Lock()
			defer p.client.mu.Unlock()
			number++
			l := &liar{s: p.client}
			return l.sealed(path, number, b)
		}
		r := receiver{endpoint: p.e, link: p.link, now: time.Now()}
		half := len(frames) / 2
		for i, b := range [][]byte{frames, frames[half:], frames[:half]} {
			r.datagram(seal(pathID(i%2*2), b), netip.AddrPort{})
		}
		r.finish()
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		s := p.server
		if s.recvHighest > s.recvCredit || s.sendUsed > s.sendCredit || s.recvConsumed > s.recvHighest {
			t.Fatalf("credit is out of balance: %d of %d received, %d of %d sent, %d consumed",
				s.recvHighest, s.recvCredit, s.sendUsed, s.sendCredit, s.recvConsumed)
		}
		if len(s.paths) > maxPaths || len(s.paths) == 0 || s.sending == nil {
			t.Fatalf("paths = %d, sending on %v", len(s.paths), s.sending)
		}
		if s.streams.len() > 2*maxOpenStreams || len(s.acceptQueue) > maxOpenStreams {
			t.Fatalf("streams = %d, to accept %d", s.streams.len(), len(s.acceptQueue))
		}
	})
}
