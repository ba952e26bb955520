package ri2n

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// sessions runs f once for each of n liars: 64 are asked for, of which make
// test does two.
func sessions(t *testing.T, f func(t *testing.T, seed int)) {
	for seed := range min(2*hostileScale(t), 64) {
		synctest.Test(t, func(t *testing.T) { f(t, seed) })
	}
}

// TestOptimisticAckIsCaught: a peer acknowledges what it has not got, so that
// the victim sends ever faster (CVE-2025-4820).
func TestOptimisticAckIsCaught(t *testing.T) {
	sessions(t, func(t *testing.T, seed int) {
		l := newLiar(t, newStage(t))
		st, err := l.victim.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.send(appendMaxStreamDataFrame(appendMaxDataFrame(nil, maxDataFrame{maxVarint}), maxStreamDataFrame{st.id, maxVarint}))
		go st.Write(make([]byte, 64<<20))
		time.Sleep(time.Duration(50+7*seed) * time.Millisecond) // an honest start
		l.stage.cb.setRule(dropAll)                             // it need not even listen
		l.victim.mu.Lock()
		p := l.victim.paths[0]
		window, sentBefore := p.cc.Cwnd(), p.bytesSent
		l.victim.mu.Unlock()
		begun, rtt := time.Now(), 20*time.Millisecond
		for l.victim.Err() == nil && time.Since(begun) < 100*rtt {
			l.victim.mu.Lock()
			newest := p.loss.lastSent
			l.victim.mu.Unlock()
			l.send(appendAckFrame(nil, ackFrame{ranges: []ackRange{{0, newest}}}))
			time.Sleep(rtt / 10)
		}
		var local *LocalError
		if err := l.victim.Err(); !errors.As(err, &local) || local.Code != codeAckUnsent {
			t.Fatalf("victim's session: %v, want it closed with %v", err, errorCode(codeAckUnsent))
		}
		if took := time.Since(begun); took > rtt {
			t.Errorf("caught after %v, want within a round trip of %v", took, rtt)
		}
		l.victim.mu.Lock()
		defer l.victim.mu.Unlock()
		// In a small window the next skipped number may be 2*minSkipInterval away.
		most := 2 * max(window, 2*minSkipInterval*p.mtu)
		if sent := int(p.bytesSent - sentBefore); sent > most {
			t.Errorf("sent %d bytes to the liar, want at most %d: twice the honest window of %d", sent, most, window)
		}
	})
}

// TestAckOfUnsentNamesIt: the code says what was wrong, within one round trip.
func TestAckOfUnsentNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		begun := time.Now()
		l.send(appendAckFrame(nil, ackFrame{delay: 1 << 50, ranges: []ackRange{{1 << 40, 1<<62 - 1}}}))
		<-l.s.Done()
		if took := time.Since(begun); took > 20*time.Millisecond {
			t.Errorf("told after %v, want within a round trip", took)
		}
		var remote *RemoteError
		if err := l.s.Err(); !errors.As(err, &remote) || remote.Code != codeAckUnsent {
			t.Errorf("liar was told %v, want %v", err, errorCode(codeAckUnsent))
		}
	})
}

// TestChallengesWithoutAcks: a peer asks for responses and acknowledges none
// (CVE-2023-49295).
func TestChallengesWithoutAcks(t *testing.T) {
	sessions(t, func(t *testing.T, seed int) {
		l := newLiar(t, newStage(t))
		l.stage.cb.setRule(dropAll) // so nothing is ever acknowledged
		sent := 0
		grown := heapGrowth(func() {
			for i := range 2000 * hostileScale(t) {
				var b []byte
				for range 50 {
					b = appendPathChallengeFrame(b, pathChallengeFrame{[8]byte{byte(i), byte(i >> 8)}})
				}
				packet := l.packet(0, b)
				sent += len(packet)
				l.deliver(packet)
				l.victim.mu.Lock()
				if got := len(l.victim.paths[0].responses); got > maxResponses {
					t.Fatalf("responses queued = %d, want at most %d", got, maxResponses)
				}
				l.victim.mu.Unlock()
				l.stage.cb.forget()
				if i%100 == 99 {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
		const noise = 1 << 19
		if grown > 1<<20+noise {
			t.Errorf("heap grew by %d KiB, want at most 1 MiB", grown>>10)
		}
		if l.victim.endpoint.Stats().ChallengesDropped == 0 {
			t.Error("no challenge was dropped and counted")
		}
		l.wantAlive()
		runtime.KeepAlive(l)
	})
}

// TestAcksStarved: a peer sends much and acknowledges nothing, while one of
// our packets is in flight for ever.
func TestAcksStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		l.stage.cb.setRule(dropAll)
		st, err := l.victim.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Write([]byte("never acknowledged"))
		ring := 0
		for i := range 20_000 * hostileScale(t) {
			l.deliver(l.packet(0, appendPingFrame(nil)))
			l.victim.mu.Lock()
			ring = max(ring, len(l.victim.paths[0].loss.ring.slots))
			l.victim.mu.Unlock()
			l.stage.cb.forget()
			if i%10 == 9 {
				time.Sleep(5 * time.Millisecond) // 2000/s
			}
		}
		if ring > 2*starvedRecords {
			t.Errorf("records of sent packets = %d, want at most %d", ring, 2*starvedRecords)
		}
		if l.victim.endpoint.Stats().AcksStarved == 0 {
			t.Error("nothing was counted")
		}
		l.wantAlive()
	})
}

// TestManyPathsToOneVictim: eight paths of one session are made to lead to
// somebody who never asked.
func TestManyPathsToOneVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		size, got := 0, 0
		third := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(1000+i))
		}
		l.stage.cb.setRule(func(_ int, b []byte, to netip.AddrPort) []delivery {
			if to.Addr() == third(0).Addr() {
				got += len(b)
				return nil
			}
			return as(b)
		})
		go func() { // data that the victim would like to send
			st, err := l.victim.OpenStream(t.Context())
			if err == nil {
				st.Write(make([]byte, 1<<20))
			}
		}()
		for i := range 100 * hostileScale(t) {
			for id := pathID(0); id <= initialMaxPathID; id += 2 {
				l.s.mu.Lock()
				b := l.sealed(id, packetNumber(1000+i), appendPadding(appendPingFrame(nil), 40))
				l.s.mu.Unlock()
				size += len(b)
				l.deliverFrom(third(int(id)), b)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got > 3*size {
			t.Errorf("somebody else got %d bytes for %d", got, size)
		}
		if paths := len(l.victim.Paths()); paths > maxPaths {
			t.Errorf("paths = %d, want at most %d", paths, maxPaths)
		}
	})
}

// TestPathIDsBeyondTheLimit find no session: there is nothing to flood.
func TestPathIDsBeyondTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		before := l.victim.endpoint.Stats()
		for _, id := range []pathID{16, 1 << 16, 1<<31 - 2, 1<<32 - 2} {
			l.s.mu.Lock()
			b := l.sealed(id, 0, appendPingFrame(nil))
			l.s.mu.Unlock()
			l.deliver(b)
		}
		after := l.victim.endpoint.Stats()
		if got := after.UnknownConnection - before.UnknownConnection; got != 4 {
			t.Errorf("packets of nobody = %d, want 4", got)
		}
		if got := len(l.victim.Paths()); got != 1 {
			t.Errorf("paths = %d, want 1", got)
		}
		l.send(appendMaxPathsFrame(nil, maxPathsFrame{1<<32 - 1}))
		l.send(appendPathAbandonFrame(nil, pathAbandonFrame{path: 1<<32 - 1}))
		l.send(appendPathStatusFrame(nil, pathStatusFrame{path: 1<<32 - 2, seq: 1}))
		l.wantAlive()
	})
}

// TestLimitsDoNotShrink: a peer takes back what it has granted.
func TestLimitsDoNotShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		st, err := l.victim.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.victim.mu.Lock()
		credit, limit, streams, paths := l.victim.sendCredit, st.sendLimit, l.victim.streamLimit, l.victim.pathLimit
		l.victim.mu.Unlock()
		b := appendMaxDataFrame(nil, maxDataFrame{1})
		b = appendMaxStreamDataFrame(b, maxStreamDataFrame{st.id, 1})
		b = appendMaxStreamsFrame(b, maxStreamsFrame{limit: 0})
		l.send(appendMaxPathsFrame(b, maxPathsFrame{0}))
		l.wantAlive()
		l.victim.mu.Lock()
		defer l.victim.mu.Unlock()
		if l.victim.sendCredit != credit || st.sendLimit != limit || l.victim.streamLimit != streams || l.victim.pathLimit != paths {
			t.Errorf("limits after an attempt to shrink them: %d %d %d %d, want %d %d %d %d", l.victim.sendCredit, st.sendLimit,
				l.victim.streamLimit, l.victim.pathLimit, credit, limit, streams, paths)
		}
	})
}

// TestZeroWindow: the peer grants nothing; the victim holds what it was given
// to send, and neither spins nor grows.
func TestZeroWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		l.victim.mu.Lock()
		l.victim.sendCredit = 0
		l.victim.mu.Unlock()
		var streams []*Stream
		for range 100 {
			st, err := l.victim.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			st.SetWriteDeadline(time.Now().Add(time.Second))
			st.Write([]byte("something"))
			streams = append(streams, st)
		}
		before := l.victim.endpoint.Stats().DatagramsSent
		time.Sleep(30 * time.Second)
		if sent := l.victim.endpoint.Stats().DatagramsSent - before; sent > 60 {
			t.Errorf("datagrams sent in 30 s of a closed window = %d", sent)
		}
		// One byte at a time: each packet of credit is worth one look at the
		// streams, however many frames it has.
		looks := l.victim.endpoint.Stats().DatagramsSent
		for i := range 100 {
			var b []byte
			for k := range 50 {
				b = appendMaxDataFrame(b, maxDataFrame{uint64(50*i + k + 1)})
			}
			l.send(b)
		}
		if sent := l.victim.endpoint.Stats().DatagramsSent - looks; sent > 1000 {
			t.Errorf("100 packets of credit made the victim send %d", sent)
		}
		l.wantAlive()
		runtime.KeepAlive(streams)
	})
}

// TestAbsurdValues: 2^60 and 2^62 where a frame has a number.
func TestAbsurdValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		l.victim.mu.Lock()
		l.victim.paths[0].ping = true
		l.victim.flush(time.Now())
		time.Sleep(20 * time.Millisecond)
		l.victim.mu.Lock()
		newest := l.victim.paths[0].loss.lastSent
		rtt := l.victim.paths[0].rtt
		l.victim.mu.Unlock()
		grown := heapGrowth(func() {
			for _, b := range [][]byte{
				appendAckFrame(nil, ackFrame{delay: 1 << 62, ranges: []ackRange{{newest, newest}}}),
				appendAckFrame(nil, ackFrame{ranges: []ackRange{{newest, newest}}, hasECN: true, ect0: maxVarint, ect1: maxVarint, ce: maxVarint}),
				appendAckFreqFrame(nil, ackFreqFrame{threshold: 1 << 60, delay: 1 << 62, reorder: 1 << 60}),
				appendAckFreqFrame(nil, ackFreqFrame{}),
				appendPathStatusFrame(nil, pathStatusFrame{path: 0, seq: maxVarint, status: pathStatusSuspect}),
				appendPathStatusFrame(nil, pathStatusFrame{path: 0, seq: 1}),
				appendMaxDataFrame(nil, maxDataFrame{maxVarint}),
				appendMaxPathsFrame(nil, maxPathsFrame{1<<32 - 1}),
				appendDataBlockedFrame(nil, dataBlockedFrame{maxVarint}),
				appendAddrFrame(nil, addrFrame{kind: frameAddrAdd, addr: netip.MustParseAddrPort("127.0.0.1:22")}),
			} {
				l.send(b)
			}
		})
		l.wantAlive()
		if grown > 1<<20 {
			t.Errorf("heap grew by %d KiB", grown>>10)
		}
		l.victim.mu.Lock()
		defer l.victim.mu.Unlock()
		p := l.victim.paths[0]
		if p.acks.threshold > maxAckThreshold || p.acks.maxAckDelay > maxAckDelay {
			t.Errorf("ACK policy after the lies: %+v", p.acks)
		}
		if p.rtt.smoothed < 0 || p.rtt.smoothed > time.Second || p.rtt.min <= 0 {
			t.Errorf("RTT was %+v and is %+v", rtt, p.rtt)
		}
	})
}

// TestKeyUpdateTooSoon: acknowledged or not, three updates within three of the
// peer's PTOs are too many (docs/wire-format.md, section 5.3).
func TestKeyUpdateTooSoon(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration
		want bool // closed
	}{
		{"at once", time.Millisecond, true},
		{"after a round trip", 25 * time.Millisecond, true},
		{"after three PTOs", 150 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLiar(t, newStage(t))
				for range 3 {
					l.s.mu.Lock()
					l.s.rotateSendKeys(time.Now())
					l.s.mu.Unlock()
					l.send(appendPingFrame(nil))
					if !tt.want {
						l.wantAlive()
					}
					time.Sleep(tt.wait)
				}
				var local *LocalError
				err := l.victim.Err()
				if closed := errors.As(err, &local) && local.Code == codeKeyUpdate; closed != tt.want {
					t.Errorf("victim's session: %v, want closed = %v", err, tt.want)
				}
			})
		})
	}
}

// TestForgeriesAreCounted up to the limit, on all paths together, and end the
// session there: not one sooner.
func TestForgeriesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		l := newLiar(t, s)
		lane := s.newLane(7001)
		lane.open(t, l.s)
		const limit = 1 << 10
		l.victim.readKeys.most = limit
		forge := func(i int) {
			l.s.mu.Lock()
			b := l.sealed(pathID(i%2*2), packetNumber(10+i), appendPingFrame(nil))
			l.s.mu.Unlock()
			b[len(b)-1-i%16] ^= 1 << (i % 8)
			b[0] ^= bitKeyPhase * byte(i/2%2)
			l.deliver(b)
		}
		for i := range limit - 1 {
			forge(i)
		}
		l.wantAlive()
		if got := l.victim.readKeys.forgeries.Load(); got != limit-1 {
			t.Errorf("forgeries counted = %d, want %d", got, limit-1)
		}
		forge(limit)
		l.wantClosed(codeAEADLimit)
	})
	for suite, want := range map[uint16]uint64{0x1301: 1 << 52, 0x1302: 1 << 52, 0x1303: 1 << 36} {
		var k receiveKeys
		if err := k.init(suite, secretForTest(suite)); err != nil || k.most != want {
			t.Errorf("suite %#x: forgeries allowed = %d, %v; want %d", suite, k.most, err, want)
		}
	}
}

// TestAEADLimitOverPaths: packets under one key are counted over all paths,
// and the session says so when it must end for it.
func TestAEADLimitOverPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		lane := s.newLane(7001)
		lane.open(t, client)
		time.Sleep(time.Second)
		client.mu.Lock()
		var sum uint64
		for _, p := range client.paths {
			if p.packetsSent == 0 {
				t.Errorf("path %d has sent nothing", p.id)
			}
			sum += p.packetsSent
		}
		if client.keys.packets != sum {
			t.Errorf("packets counted under the key = %d, want %d, those of both paths", client.keys.packets, sum)
		}
		client.keys.most, client.keys.packets = 0, maxKeyPackets
		client.keys.confirmed = false // so that no update is allowed
		client.mu.Unlock()
		client.SendDatagram(1, []byte("one too many"))
		var local *LocalError
		if err := client.Err(); !errors.As(err, &local) || local.Code != codeAEADLimit {
			t.Errorf("session: %v, want closed with %v", err, errorCode(codeAEADLimit))
		}
		time.Sleep(50 * time.Millisecond)
		var remote *RemoteError
		if err := server.Err(); !errors.As(err, &remote) || remote.Code != codeAEADLimit {
			t.Errorf("the peer was told %v, want %v", err, errorCode(codeAEADLimit))
		}
	})
}

// TestReplayOfRefusedPacket: a packet whose stream data found no room was not
// acknowledged, and what else it carried must still not come twice.
func TestReplayOfRefusedPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		for i := range maxRecvGaps {
			l.send(append(appendStreamHeader(nil, 0, uint64(2*i+1), 1, true, false), 1))
		}
		frames := appendDatagramFrame(nil, datagramFrame{data: []byte("once")})
		frames = append(appendStreamHeader(frames, 0, 2*maxRecvGaps+99, 1, true, false), 1)
		packet := l.packet(0, frames)
		for range 3 {
			l.deliver(bytes.Clone(packet))
		}
		l.wantAlive()
		l.victim.mu.Lock()
		defer l.victim.mu.Unlock()
		if got := l.victim.inbox.len(); got != 1 {
			t.Errorf("datagrams delivered = %d, want 1", got)
		}
		stats := l.victim.endpoint.Stats()
		if stats.StreamGapsRefused != 1 || stats.Duplicates != 2 {
			t.Errorf("gaps refused = %d, duplicates = %d; want 1 and 2", stats.StreamGapsRefused, stats.Duplicates)
		}
		if p := l.victim.paths[0]; p.numbers.contains(p.refused.last.largest) {
			t.Error("the refused packet will be acknowledged")
		}
	})
}

// TestReplayOverCarrier: what a relay has captured it may send again, at once,
// later, in another order, and on another path.
func TestReplayOverCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, lb, ca, _ := carrierPair(t, a, b, 1200, 5*time.Millisecond)
		var captured [][]byte
		ca.tap = func(d []byte) { captured = append(captured, bytes.Clone(d)) }
		client, server := connectSessions(t, a, b, Remote{Link: la})
		exchange(t, client, server, 100_000)
		for i := range 20 {
			client.SendDatagram(1, fmt.Appendf(nil, "datagram %d", i))
		}
		time.Sleep(time.Second)
		server.mu.Lock()
		before, queued := server.recvHighest, server.inbox.len()
		server.mu.Unlock()
		rng := rand.New(rand.NewPCG(1, 2))
		wires := append([][]byte(nil), captured...)
		for round := range 3 {
			if round > 0 {
				rng.Shuffle(len(wires), func(i, j int) { wires[i], wires[j] = wires[j], wires[i] })
			}
			for _, w := range wires {
				lb.Deliver(bytes.Clone(w))
			}
			time.Sleep(time.Minute / 4)
		}
		if err := server.Err(); err != nil {
			t.Fatal(err)
		}
		server.mu.Lock()
		if server.recvHighest != before || server.inbox.len() != queued || queued != 20 {
			t.Errorf("after the replays %d bytes and %d datagrams, want %d and 20", server.recvHighest, server.inbox.len(), before)
		}
		server.mu.Unlock()
		exchange(t, client, server, 1000)
	})
}

// TestInboxIsBoundedInBytes: a slow reader of datagrams as large as a packet
// can be.
func TestInboxIsBoundedInBytes(t *testing.T) {
	var q datagramInbox
	big := make([]byte, 60_000)
	for range 100 {
		q.push(big)
	}
	if got := q.len() * len(big); got > maxInboxBytes {
		t.Errorf("bytes that wait = %d, want at most %d", got, maxInboxBytes)
	}
	if q.drops == 0 {
		t.Error("no drop was counted")
	}
	for _, ok := q.pop(); ok; _, ok = q.pop() {
	}
	if q.size != 0 {
		t.Errorf("bytes counted in an empty queue = %d", q.size)
	}
	q.push(make([]byte, 1<<20))
	if q.len() != 1 {
		t.Error("one datagram, however large, has room")
	}
}

// TestAbsurdTransportParameters: none, damaged as it may be, panics or gives a
// value that makes no sense.
func TestAbsurdTransportParameters(t *testing.T) {
	good := appendTransportParams(nil, transportParams{version: version1, maxPaths: 15})
	if _, err := parseTransportParams(good); err != nil {
		t.Fatal(err)
	}
	for i := range len(good) {
		parseTransportParams(good[:i]) // no panic
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20_000 * hostileScale(t) {
		b := bytes.Clone(good)
		for range 1 + rng.IntN(4) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		if p, err := parseTransportParams(b); err == nil && p.maxAckDelay < 0 {
			t.Fatalf("%x gives %+v", b, p)
		}
	}
}
