package ri2n

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A liar is an authenticated peer that sends what it likes: the client's end
// of a session whose packets are made by hand, under the session's keys.
type liar struct {
	t      testing.TB
	stage  *stage
	s      *Session // its own end, which does the honest part
	victim *Session
}

// newLiar connects.
func newLiar(t testing.TB, st *stage) *liar {
	t.Helper()
	client, server := st.connect()
	time.Sleep(100 * time.Millisecond) // all that the handshake owes has been sent
	client.mu.Lock()
	client.opened = maxStreamCount // its honest end wonders at no answer
	client.mu.Unlock()
	return &liar{t, st, client, server}
}

// packet seals frames as the next packet of path 0. edit may change the header.
func (l *liar) packet(path pathID, frames []byte, edit ...func(h *shortHeader)) []byte {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var number packetNumber
	if p := l.s.pathByID(path); p != nil {
		number = p.loss.nextPacketNumber()
		p.loss.sent(time.Now(), number, len(frames)+shortHeaderLen+aeadOverhead, false, false, frameRef{}, nil)
	}
	return l.sealed(path, number, frames, edit...)
}

func (l *liar) sealed(path pathID, number packetNumber, frames []byte, edit ...func(h *shortHeader)) []byte {
	h := shortHeader{keyPhase: l.s.keys.phase, dcid: l.s.remoteIDs.cid(path, 0), pn: uint32(number)}
	for _, f := range edit {
		f(&h)
	}
	b := appendShortHeader(nil, h)
	b = append(b, frames...)
	b = append(b, make([]byte, aeadOverhead)...)
	return l.s.keys.keys.seal(b[:len(b)-aeadOverhead], shortHeaderLen, path, number)
}

// send delivers frames in one packet of path 0 as if read from the socket.
func (l *liar) send(frames []byte) { l.deliver(l.packet(0, frames)) }

// deliver hands datagrams to the victim as one read of its socket.
func (l *liar) deliver(datagrams ...[]byte) {
	l.deliverFrom(linkAddr(l.stage.la), datagrams...)
}

func (l *liar) deliverFrom(from netip.AddrPort, datagrams ...[]byte) {
	r := receiver{endpoint: l.victim.endpoint, link: l.stage.lb, now: time.Now()}
	for _, b := range datagrams {
		r.datagram(b, from)
	}
	r.finish()
}

// wantClosed fails unless the victim has closed with code, and told so.
func (l *liar) wantClosed(code uint64) {
	l.t.Helper()
	synctest.Wait()
	var local *LocalError
	if err := l.victim.Err(); !errors.As(err, &local) || local.Code != code {
		l.t.Errorf("victim's session: %v, want closed by it with %v", err, errorCode(code))
	}
	time.Sleep(50 * time.Millisecond)
	var remote *RemoteError
	if err := l.s.Err(); !errors.As(err, &remote) || remote.Code != code {
		l.t.Errorf("liar was told %v, want %v", err, errorCode(code))
	}
	if got := l.victim.endpoint.Stats().Violations; got != 1 {
		l.t.Errorf("violations counted = %d, want 1", got)
	}
}

func (l *liar) wantAlive() {
	l.t.Helper()
	synctest.Wait()
	if err := l.victim.Err(); err != nil {
		l.t.Errorf("victim's session ended: %v", err)
	}
}

// heapGrowth returns by how much f makes the heap grow, in bytes.
func heapGrowth(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// TestLiarIsCaught: each breach closes the session with its code.
func TestLiarIsCaught(t *testing.T) {
	stream := func(off uint64, n int, fin bool, fill byte) []byte {
		b := appendStreamHeader(nil, 0, off, n, true, fin)
		return append(b, []byte(strings.Repeat(string(rune(fill)), n))...)
	}
	for _, tt := range []struct {
		name    string
		code    uint64
		packets [][]byte
	}{
		{"ACK of an unsent packet", codeAckUnsent, [][]byte{appendAckFrame(nil, ackFrame{ranges: []ackRange{{1 << 20, 1 << 20}}})}},
		{"contradicting data", codeProtocolViolation, [][]byte{stream(0, 100, false, 'a'), stream(50, 100, false, 'b')}},
		{"contradicting data ahead", codeProtocolViolation, [][]byte{stream(1000, 100, false, 'a'), stream(1050, 100, false, 'b')}},
		{"data past the end", codeFinalSize, [][]byte{stream(0, 100, true, 'a'), stream(100, 1, false, 'a')}},
		{"two ends", codeFinalSize, [][]byte{stream(0, 100, true, 'a'), stream(0, 99, true, 'a')}},
		{"reset at another end", codeFinalSize, [][]byte{stream(0, 100, true, 'a'), appendResetStreamFrame(nil, resetStreamFrame{0, 1, 101})}},
		{"reset below the data", codeFinalSize, [][]byte{stream(0, 100, false, 'a'), appendResetStreamFrame(nil, resetStreamFrame{0, 1, 99})}},
		{"beyond MAX_STREAM_DATA", codeFlowControl, [][]byte{stream(initialStreamWindow, 1, false, 'a')}},
		{"far beyond", codeFlowControl, [][]byte{stream(1<<60, 1, false, 'a')}},
		{"empty, far beyond", codeFlowControl, [][]byte{stream(1<<60, 0, false, 'a')}},
		{"end far beyond", codeFlowControl, [][]byte{stream(1<<60, 0, true, 'a')}},
		{"reset far beyond", codeFinalSize, [][]byte{appendResetStreamFrame(nil, resetStreamFrame{0, 1, 1 << 60})}},
		{"beyond MAX_DATA", codeFlowControl, [][]byte{
			append(appendStreamHeader(nil, 0, initialStreamWindow-1, 1, true, false), 0),
			append(appendStreamHeader(nil, 4, initialStreamWindow-1, 1, true, false), 0),
			append(appendStreamHeader(nil, 8, 0, 1, true, false), 0),
		}},
		{"resets beyond MAX_DATA", codeFlowControl, [][]byte{
			appendResetStreamFrame(nil, resetStreamFrame{0, 1, initialStreamWindow}),
			append(appendStreamHeader(nil, 4, initialStreamWindow-1, 1, true, false), 0),
			append(appendStreamHeader(nil, 8, initialStreamWindow-1, 1, true, false), 0),
			append(appendStreamHeader(nil, 12, initialStreamWindow-1, 1, true, false), 0),
		}},
		{"too many streams", codeStreamLimit, [][]byte{append(appendStreamHeader(nil, 4*maxOpenStreams, 0, 1, true, false), 0)}},
		{"stream 2^60", codeStreamLimit, [][]byte{append(appendStreamHeader(nil, 1<<60, 0, 1, true, false), 0)}},
		{"unidirectional stream", codeStreamLimit, [][]byte{append(appendStreamHeader(nil, 2, 0, 1, true, false), 0)}},
		{"stream of the victim that it never opened", codeStreamState, [][]byte{append(appendStreamHeader(nil, 1, 0, 1, true, false), 0)}},
		{"MAX_STREAM_DATA for a stream never opened", codeStreamState, [][]byte{appendMaxStreamDataFrame(nil, maxStreamDataFrame{1, 1})}},
		{"STOP_SENDING for a stream never opened", codeStreamState, [][]byte{appendStopSendingFrame(nil, stopSendingFrame{1, 1})}},
		{"CRYPTO", codeProtocolViolation, [][]byte{appendCryptoFrame(nil, cryptoFrame{data: []byte("x")})}},
		{"HANDSHAKE_DONE from a client", codeProtocolViolation, [][]byte{appendHandshakeDoneFrame(nil)}},
		{"unknown frame", codeFrameEncoding, [][]byte{{0x3f}}},
		{"frame cut short", codeFrameEncoding, [][]byte{{frameMaxData}}},
		{"frame type cut short", codeFrameEncoding, [][]byte{{0xff}}},
		{"long close reason", codeFrameEncoding, [][]byte{append([]byte{frameClose, 0, 0x41, 0x01}, make([]byte, 257)...)}},
		{"no frames", codeProtocolViolation, [][]byte{{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLiar(t, newStage(t))
				for _, frames := range tt.packets {
					l.wantAlive()
					l.send(frames)
				}
				l.wantClosed(tt.code)
			})
		})
	}
	t.Run("reserved bits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLiar(t, newStage(t))
			l.deliver(l.packet(0, appendPingFrame(nil), func(h *shortHeader) { h.reserved = 3 }))
			l.wantClosed(codeProtocolViolation)
		})
	})
	t.Run("ACK of a skipped packet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLiar(t, newStage(t))
			l.victim.mu.Lock()
			p := l.victim.paths[0]
			skipped := p.loss.nextPacketNumber()
			p.ping = true // a packet beyond it
			l.victim.flush(time.Now())
			l.send(appendAckFrame(nil, ackFrame{ranges: []ackRange{{skipped, skipped + 1}}}))
			l.wantClosed(codeAckUnsent)
		})
	})
}

// TestLiarIsBounded: floods of frames that are allowed one by one.
func TestLiarIsBounded(t *testing.T) {
	const perSession = 1 << 20
	for _, tt := range []struct {
		name string
		most int64 // bytes of heap
		send func(l *liar, i int) []byte
		n    int
		also func(t *testing.T, l *liar)
	}{
		{"PATH_CHALLENGE", perSession, func(l *liar, i int) []byte {
			b := appendPathChallengeFrame(nil, pathChallengeFrame{[8]byte{byte(i)}})
			for range 100 {
				b = appendPathChallengeFrame(b, pathChallengeFrame{[8]byte{byte(i)}})
			}
			return b
		}, 100, func(t *testing.T, l *liar) {
			if got := cap(l.victim.paths[0].responses); got > 4*maxResponses {
				t.Errorf("room for %d responses, want %d at most", got, maxResponses)
			}
		}},
		{"single bytes of one stream", initialStreamWindow + 64<<10 + perSession, func(l *liar, i int) []byte {
			return append(appendStreamHeader(nil, 0, uint64(2*i+1), 1, true, false), 1)
		}, 5000, func(t *testing.T, l *liar) {
			if got := l.victim.endpoint.Stats().StreamGapsRefused; got == 0 {
				t.Error("no gap was refused")
			}
		}},
		{"single bytes far apart", initialStreamWindow + 64<<10 + perSession, func(l *liar, i int) []byte {
			return append(appendStreamHeader(nil, 0, uint64(i*4096%initialStreamWindow+i/128), 1, true, false), 1)
		}, 5000, nil},
		{"one byte ahead in each of many streams", 16 << 20, func(l *liar, i int) []byte {
			if i >= maxOpenStreams {
				return appendPingFrame(nil)
			}
			return append(appendStreamHeader(nil, uint64(4*i), 900, 1, true, false), 1)
		}, maxOpenStreams, nil},
		{"streams opened and reset", 4 * perSession, func(l *liar, i int) []byte {
			b := appendResetStreamFrame(nil, resetStreamFrame{uint64(4 * i), 1, 0})
			return appendStopSendingFrame(b, stopSendingFrame{uint64(4 * i), 1})
		}, maxOpenStreams, nil},
		{"PATH_STATUS", perSession, func(l *liar, i int) []byte {
			return appendPathStatusFrame(nil, pathStatusFrame{path: 0, seq: uint64(i + 10), resetToken: [16]byte{byte(i), byte(i >> 8)}})
		}, 3000, func(t *testing.T, l *liar) {
			r := &l.victim.endpoint.routes
			r.mu.RLock()
			defer r.mu.RUnlock()
			if got := len(r.resets); got != 1 {
				t.Errorf("reset tokens kept = %d, want 1", got)
			}
		}},
		{"DATAGRAM that nobody reads", 2 * perSession, func(l *liar, i int) []byte {
			return appendDatagramFrame(nil, datagramFrame{data: make([]byte, 1000)})
		}, 3000, func(t *testing.T, l *liar) {
			if got := l.victim.endpoint.Stats().DatagramInboxDropped; got != 3000-maxInboxDatagrams {
				t.Errorf("datagrams dropped = %d, want %d", got, 3000-maxInboxDatagrams)
			}
		}},
		{"PATH_ABANDON of paths that never were", perSession, func(l *liar, i int) []byte {
			return appendPathAbandonFrame(nil, pathAbandonFrame{path: pathID(2 + 2*i)})
		}, 3000, func(t *testing.T, l *liar) {
			r := &l.victim.endpoint.routes
			r.mu.RLock()
			defer r.mu.RUnlock()
			if got := len(r.short); got > maxRetiredPaths+10 {
				t.Errorf("connection IDs kept = %d", got)
			}
		}},
		{"huge limits", perSession, func(l *liar, i int) []byte {
			b := appendMaxStreamsFrame(nil, maxStreamsFrame{limit: maxStreamCount})
			b = appendMaxDataFrame(b, maxDataFrame{maxVarint})
			b = appendMaxPathsFrame(b, maxPathsFrame{1<<32 - 1})
			b = append(b, appendStreamHeader(nil, 0, 0, 0, true, false)...)
			b = appendMaxStreamDataFrame(b, maxStreamDataFrame{0, maxVarint})
			return appendAckFreqFrame(b, ackFreqFrame{threshold: maxVarint, delay: time.Hour, reorder: maxVarint})
		}, 100, func(t *testing.T, l *liar) {
			for range 10 {
				if _, err := l.victim.OpenStream(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}},
		{"ADDR and BLOCKED frames", perSession, func(l *liar, i int) []byte {
			b := appendDataBlockedFrame(nil, dataBlockedFrame{uint64(i)})
			return b
		}, 3000, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLiar(t, newStage(t))
				l.stage.cb.setRule(func(_ int, b []byte, _ netip.AddrPort) []delivery { return nil })
				grown := heapGrowth(func() {
					for i := range tt.n {
						l.deliver(l.packet(0, tt.send(l, i)))
						l.stage.cb.forget()
						if i%100 == 99 {
							time.Sleep(time.Millisecond)
						}
					}
				})
				l.wantAlive()
				if grown > tt.most {
					t.Errorf("heap grew by %d KiB, want at most %d", grown>>10, tt.most>>10)
				}
				if tt.also != nil {
					tt.also(t, l)
				}
				runtime.KeepAlive(l)
			})
		})
	}
}

// TestRapidReset: streams that are opened and reset faster than the victim
// accepts them give no credit for more.
func TestRapidReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		var i uint64
		for ; i < 4*maxOpenStreams && l.victim.Err() == nil; i++ {
			b := appendResetStreamFrame(nil, resetStreamFrame{4 * i, 1, 0})
			l.send(appendStopSendingFrame(b, stopSendingFrame{4 * i, 1}))
			time.Sleep(30 * time.Millisecond) // its answer is acknowledged
		}
		l.victim.mu.Lock()
		if got := len(l.victim.acceptQueue); got > maxOpenStreams {
			t.Errorf("streams that wait to be accepted = %d, want at most %d", got, maxOpenStreams)
		}
		l.victim.mu.Unlock()
		l.wantClosed(codeStreamLimit)
	})
}

// TestPathOpenFlood: a peer opens paths as fast as it can, from everywhere.
func TestPathOpenFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		third := netip.MustParseAddrPort("203.0.113.1:9")
		l.stage.cb.forget()
		size := 0
		open := func(id pathID) {
			b := l.sealed(id, 0, appendPadding(appendPingFrame(nil), 300))
			size += len(b)
			l.deliverFrom(third, b)
		}
		for id := pathID(2); id < 300; id += 2 {
			open(id)
		}
		if got := len(l.victim.Paths()); got > 1+maxPathOpens {
			t.Errorf("paths after a flood within one second = %d, want at most %d", got, 1+maxPathOpens)
		}
		forged := l.sealed(14, 5, appendPingFrame(nil))
		forged[len(forged)-1] ^= 1
		before := len(l.victim.Paths())
		time.Sleep(2 * time.Second)
		l.deliverFrom(third, forged)
		for id := pathID(1); id < 16; id += 2 {
			open(id) // not for the client to open
		}
		if got := len(l.victim.Paths()); got > before {
			t.Errorf("a forged packet or one of the wrong parity opened a path")
		}
		for range 60 {
			for id := pathID(2); id < 120; id += 2 {
				open(id)
			}
			if got := len(l.victim.Paths()); got > maxPaths {
				t.Fatalf("paths = %d, want at most %d", got, maxPaths)
			}
			time.Sleep(time.Second)
		}
		l.wantAlive()
		got := 0
		for _, w := range l.stage.cb.captured() {
			if w.to == third {
				got += len(w.data)
			}
		}
		if got > 3*size {
			t.Errorf("a third party got %d bytes for %d", got, size)
		}
		if l.victim.endpoint.Stats().PathsRefused == 0 {
			t.Error("no refusal was counted")
		}
	})
}

// TestKeyUpdateEveryPacket is caught.
func TestKeyUpdateEveryPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		for i := range 3 {
			l.s.mu.Lock()
			if err := l.s.keys.rotate(time.Now()); err != nil {
				t.Fatal(err)
			}
			l.s.mu.Unlock()
			l.send(appendPingFrame(nil))
			if i == 0 {
				l.wantAlive()
			}
		}
		l.s.mu.Lock()
		l.s.readKeys.rotate(time.Now(), time.Second) // to read the CLOSE
		l.s.mu.Unlock()
		synctest.Wait()
		var local *LocalError
		if err := l.victim.Err(); !errors.As(err, &local) || local.Code != codeKeyUpdate {
			t.Errorf("victim's session: %v, want %v", err, errorCode(codeKeyUpdate))
		}
	})
}

// TestKeyUpdateWithinOneRead: the packets of one read were opened before the
// session looked at the first of them.
func TestKeyUpdateWithinOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		old := l.packet(0, appendPingFrame(nil))
		l.s.mu.Lock()
		l.s.keys.rotate(time.Now())
		l.s.mu.Unlock()
		first, second := l.packet(0, appendPingFrame(nil)), l.packet(0, appendPingFrame(nil))
		l.deliver(first, second, old)
		l.wantAlive()
		l.deliver(l.packet(0, appendPingFrame(nil)))
		l.wantAlive()
		if got := l.victim.endpoint.Stats().AuthenticationFailed; got != 0 {
			t.Errorf("packets that did not open = %d, want 0", got)
		}
	})
}

// TestReplayIsDropped: a captured session delivers nothing twice.
func TestReplayIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		exchange(t, client, server, 20000)
		for i := range 20 {
			client.SendDatagram(1, fmt.Appendf(nil, "datagram %d", i))
		}
		time.Sleep(time.Second)
		server.mu.Lock()
		before, queued := server.recvHighest, server.inbox.len()
		server.mu.Unlock()
		l := &liar{t, s, client, server}
		for _, w := range s.ca.captured() {
			l.deliver(append([]byte(nil), w.data...))
		}
		time.Sleep(time.Second)
		server.mu.Lock()
		if server.recvHighest != before || server.inbox.len() != queued || queued != 20 {
			t.Errorf("after the replay %d bytes and %d datagrams, want %d and 20", server.recvHighest, server.inbox.len(), before)
		}
		server.mu.Unlock()
		if got := s.b.Stats(); got.Duplicates == 0 || got.HandshakesStarted != 1 {
			t.Errorf("duplicates = %d, handshakes = %d", got.Duplicates, got.HandshakesStarted)
		}
		exchange(t, client, server, 20000)
	})
}
