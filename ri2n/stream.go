package ri2n

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// A Stream is a reliable byte stream within a session: a [net.Conn] with
// CloseWrite. Deadlines and Close may be called from any goroutine.
type Stream struct {
	session  *Session
	id       uint64
	readable wakeup // guarded by the session's mutex
	writable wakeup // the same
	rd, wd   deadline

	// guarded by the session's mutex
	send      sendBuffer
	sendLimit uint64 // the peer's credit
	writeErr  error  // why no more may be written; nil: open
	writers   int    // that wait for room
	wakeAt    int    // so many bytes buffered make one of them go on
	resetCode uint64

	recv      recvBuffer
	recvLimit uint64 // our credit
	window    creditWindow
	readErr   error // why no more may be read; nil: open
	stopCode  uint64

	policy Policy

	// Together, or each would take a word.
	resetDue, resetSent, resetAcked bool
	peerReset                       bool
	maxDataDue, stopDue             bool
	queued, controlQueued           bool
	blocked                         bool // by the peer's credit alone
	retired                         bool
	accepted                        bool // of the peer's streams
}

// Addr is the address of a stream's end: a peer. It implements [net.Addr].
type Addr struct{ Peer PeerID }

func (a Addr) Network() string { return "ri2n" }
func (a Addr) String() string  { return a.Peer.String() }

// newStream is called with the session's mutex held.
func (s *Session) newStream(id uint64) *Stream {
	st := &Stream{
		session:   s,
		id:        id,
		policy:    policyInherit,
		sendLimit: s.peerTakes.streamData,
		recvLimit: initialStreamWindow,
		window:    creditWindow{size: initialStreamWindow, cap: maxStreamWindow},
	}
	s.streams.add(st)
	if s.trace != nil {
		s.trace.stream(st, true)
	}
	return st
}

// ID returns the number of the stream within its session.
func (st *Stream) ID() uint64 { return st.id }

// Session returns the session that the stream belongs to.
func (st *Stream) Session() *Session { return st.session }

// LocalAddr and RemoteAddr return the peer IDs of the two ends.
func (st *Stream) LocalAddr() net.Addr  { return Addr{st.session.endpoint.PeerID()} }
func (st *Stream) RemoteAddr() net.Addr { return Addr{st.session.peer} }

// Read reads what has arrived, or waits. It returns [io.EOF] after the peer's
// CloseWrite or Close, a *[StreamError] after its Reset, and the session's
// error when that has ended and everything that arrived has been read.
func (st *Stream) Read(b []byte) (int, error) {
	s := st.session
	for {
		if st.rd.expired() {
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		n, err := st.read(b)
		if n > 0 || err != nil || len(b) == 0 {
			s.tellCredit(st)
			return n, err
		}
		readable := st.readable.wait()
		s.mu.Unlock()
		select {
		case <-readable:
		case <-st.rd.wait():
		case <-s.done:
		}
	}
}

// tellCredit lets the peer know of new credit and releases the mutex.
func (s *Session) tellCredit(st *Stream) {
	if s.maxDataDue || st.maxDataDue {
		s.flush(time.Now())
	} else {
		s.unlock()
	}
}

// read takes what is there. It returns 0 and nil when the caller must wait.
func (st *Stream) read(b []byte) (int, error) {
	return st.take(func() int { return st.recv.read(b) })
}

// take is read with a function that takes bytes and returns how many.
func (st *Stream) take(from func() int) (int, error) {
	s := st.session
	if st.readErr != nil {
		return 0, st.readErr
	}
	if n := from(); n > 0 {
		st.consumed(uint64(n))
		if st.recv.eof() {
			s.retire(st)
		}
		if st.recv.readable() > 0 || st.recv.eof() {
			st.readable.signal()
		}
		return n, nil
	}
	switch {
	case st.recv.eof():
		s.retire(st)
		return 0, io.EOF
	case s.err != nil:
		return 0, s.err
	}
	return 0, nil
}

// consumed gives the peer credit for n more bytes.
func (st *Stream) consumed(n uint64) {
	s := st.session
	now := time.Now()
	rtt := s.creditRTT()
	s.recvConsumed += n
	if limit, grow := s.recvWindow.extend(now, rtt, s.recvConsumed, s.recvCredit); grow {
		s.recvCredit = limit
		s.maxDataDue = true
	}
	if _, known := st.recv.finalSize(); known {
		return // it needs no more
	}
	if limit, grow := st.window.extend(now, rtt, st.recv.consumed(), st.recvLimit); grow {
		st.recvLimit = limit
		st.maxDataDue = true
		s.queueControl(st)
	}
}

// creditRTT is the round trip that credit is measured by. A little of what the
// smoothed RTT has above the least one is the network's queue; much of it is
// our own, in the receiver's socket, and would grow with the credit.
func (s *Session) creditRTT() time.Duration {
	var longest time.Duration
	usable := 0
	for _, p := range s.paths {
		if p.state == PathActive || p.state == PathStandby {
			longest = max(longest, min(p.rtt.smoothed, 4*p.rtt.min+creditSlack))
			usable++
		}
	}
	if usable > 1 {
		longest = max(longest, reorderTime)
	}
	return longest
}

// reorderTime is what data may wait at the receiver, with several paths, for
// what the peer has sent before on a path with a queue, of which our own RTT
// tells nothing: with creditTrips, the queue of a usual line.
const reorderTime = 20 * time.Millisecond

// creditSlack is the part of creditRTT that is granted to the scheduling of the
// two ends.
const creditSlack = time.Millisecond / 4

// creditTrips is how many round trips a window should hold: one for what is in
// flight, one for the update to come back, and some during which what arrives
// waits for one packet that has been lost more than once.
const creditTrips = 6

// creditPeriod is several times as long as the system lets a goroutine wait on
// a busy machine. A guess.
const creditPeriod = 10 * time.Millisecond

// Write queues b and returns once it has been copied, which may be long
// before the peer has it. It waits while the stream's buffer is full.
func (st *Stream) Write(b []byte) (n int, err error) {
	s := st.session
	waited := false
	for {
		if st.wd.expired() {
			st.stopWaiting(waited)
			return n, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		switch {
		case st.writeErr != nil:
			err = st.writeErr
		case s.err != nil:
			err = s.err
		}
		if err != nil || len(b) == 0 {
			if waited {
				st.writers--
			}
			s.mu.Unlock()
			return n, err
		}
		if waited {
			st.writers--
		}
		limit := st.bufferLimit()
		k := st.send.write(b, limit)
		n += k
		b = b[k:]
		var writable <-chan struct{}
		if waited = len(b) > 0; waited {
			writable = st.writable.wait()
			st.writers++
			st.wakeAt = limit - limit/writeRoom
		} else if st.writers > 0 && st.send.buffered() < limit {
			s.wakeLater(st.writable.c)
		}
		if k > 0 {
			s.queueStream(st)
			s.flush(time.Now())
		} else {
			s.mu.Unlock()
		}
		if len(b) == 0 {
			return n, nil
		}
		select {
		case <-writable:
		case <-st.wd.wait():
		case <-s.done:
		}
	}
}

const (
	minSendBuffer = 256 << 10
	maxSendBuffer = 16 << 20
)

// sendBufferLimit bounds what one stream holds for its peer, in bytes: enough
// to keep all paths full for two round trips of the longest, since a scheduler
// that sees little waiting leaves a long path alone; and three windows, since a
// hole that was lost twice holds back what came after it for two round trips.
func (s *Session) sendBufferLimit() int {
	if s.sending == nil {
		return minSendBuffer
	}
	windows, rate, longest := 0, 0.0, time.Duration(0)
	for _, p := range s.paths {
		if p.carries {
			windows += p.cc.Cwnd()
			rate += float64(p.cc.Cwnd()) / max(p.rtt.srtt(), time.Microsecond).Seconds()
			longest = max(longest, p.rtt.srtt())
		}
	}
	return int(min(max(minSendBuffer, 3*float64(windows), 2*rate*longest.Seconds()), maxSendBuffer))
}

// bufferLimit is how much may be held for the peer, in bytes. What lies far
// beyond the peer's credit would only grow cold.
func (st *Stream) bufferLimit() int {
	ahead := int(min(st.sendLimit-st.send.base, maxSendBuffer)) + minSendBuffer
	return min(st.session.sendBufferLimit(), ahead)
}

// writeRoom is the share of a full send buffer that is free again when a
// blocked writer is woken.
const writeRoom = 4

// stopWaiting takes back what a Write that waited has counted.
func (st *Stream) stopWaiting(waited bool) {
	if waited {
		st.session.mu.Lock()
		st.writers--
		st.session.mu.Unlock()
	}
}

// creditLimit is the offset below which new data may be sent.
func (st *Stream) creditLimit() uint64 {
	s := st.session
	return min(st.sendLimit, st.send.sentOffset()+s.sendCredit-s.sendUsed)
}

// CloseWrite ends the outgoing direction: the peer's Read returns io.EOF once
// it has read everything. Reading goes on.
func (st *Stream) CloseWrite() error {
	s := st.session
	s.mu.Lock()
	st.closeWrite()
	s.flush(time.Now())
	return nil
}

func (st *Stream) closeWrite() {
	if st.writeErr != nil {
		return
	}
	st.writeErr = fmt.Errorf("ri2n: write on a closed stream: %w", net.ErrClosed)
	st.send.finish()
	st.session.queueStream(st)
	st.writable.signal()
}

// Close ends both directions. What was written is still delivered; what
// arrives from now on is discarded, and the peer is told not to send it.
func (st *Stream) Close() error {
	s := st.session
	s.mu.Lock()
	st.closeWrite()
	if st.readErr == nil || st.readErr == io.EOF {
		st.readErr = fmt.Errorf("ri2n: read on a closed stream: %w", net.ErrClosed)
		if !st.recvDone() {
			st.stopDue, st.stopCode = true, codeNoError
			s.queueControl(st)
		}
		st.discard()
		st.readable.signal()
	}
	s.retire(st)
	s.flush(time.Now())
	return nil
}

// Reset aborts both directions: data on its way is dropped, and the peer's
// calls return a *[StreamError] with code.
func (st *Stream) Reset(code uint64) {
	s := st.session
	s.mu.Lock()
	st.resetWrite(code, fmt.Errorf("ri2n: write on a reset stream: %w", net.ErrClosed))
	if st.readErr == nil {
		st.readErr = fmt.Errorf("ri2n: read on a reset stream: %w", net.ErrClosed)
	}
	if !st.recvDone() {
		st.stopDue, st.stopCode = true, code
	}
	st.discard()
	s.queueControl(st)
	st.readable.signal()
	s.retire(st)
	s.flush(time.Now())
}

// resetWrite drops what has not been acknowledged and tells the peer.
func (st *Stream) resetWrite(code uint64, err error) {
	if st.send.done() || st.resetSent || st.resetDue {
		return
	}
	st.writeErr = err
	st.resetDue, st.resetCode = true, code
	st.writable.signal()
}

// discard drops received data and returns its credit.
func (st *Stream) discard() {
	if n := st.recv.readable(); n > 0 {
		var sink [4096]byte
		for {
			n := st.recv.read(sink[:])
			if n == 0 {
				break
			}
			st.consumed(uint64(n))
		}
	}
}

// SetDeadline sets both deadlines, as in [net.Conn].
func (st *Stream) SetDeadline(t time.Time) error {
	st.rd.set(t)
	st.wd.set(t)
	return nil
}

// SetReadDeadline makes reads return [os.ErrDeadlineExceeded] from t on; the
// zero time removes the deadline.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.rd.set(t)
	return nil
}

// SetWriteDeadline makes writes return [os.ErrDeadlineExceeded] from t on,
// with the number of bytes that were queued before.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.wd.set(t)
	return nil
}

// recvDone reports whether nothing more is expected from the peer.
func (st *Stream) recvDone() bool {
	size, known := st.recv.finalSize()
	return st.peerReset || known && st.recv.highest() == size && st.recv.consumed() == size
}

// sendDone reports whether the peer has everything, or knows that it will not.
func (st *Stream) sendDone() bool { return st.send.done() || st.resetAcked }

// retire forgets a stream whose both directions are over.
func (s *Session) retire(st *Stream) {
	if st.retired || !st.sendDone() || !st.recvDone() {
		return
	}
	st.retired = true
	if s.trace != nil {
		s.trace.stream(st, false)
	}
	s.streams.remove(st)
	st.send.reset()
	s.noteCredit(st)
	if ours := st.id%2 == 0 == s.client; !ours && st.accepted {
		s.streamOver()
	}
}

// streamOver lets the peer open another stream in the place of one that both
// sides are done with. One that was reset before anybody accepted it holds its
// place until then, else the queue of streams to accept had no bound.
func (s *Session) streamOver() {
	s.peerClosed++
	if limit := s.peerClosed + maxOpenStreams; limit >= s.peerLimit+maxOpenStreams/4 {
		s.peerLimit = limit
		s.maxStreamsDue = true
	}
}

// onAcked is called when the peer has a range of the stream.
func (st *Stream) onAcked(r frameRef) {
	if st.resetSent || st.retired {
		return
	}
	st.send.onAcked(r.offset, int(r.length), r.fin)
	if st.writers > 0 && st.send.buffered() <= st.wakeAt {
		st.session.wakeLater(st.writable.c)
	}
	if st.send.done() {
		st.session.retire(st)
	}
}

// controlDue reports whether the stream has control frames to send.
func (st *Stream) controlDue() bool { return st.maxDataDue || st.resetDue || st.stopDue }

func (st *Stream) appendControl(b []byte, refs []frameRef, room func() bool) ([]byte, []frameRef) {
	if st.maxDataDue && room() {
		b = appendMaxStreamDataFrame(b, maxStreamDataFrame{st.id, st.recvLimit})
		refs = append(refs, frameRef{kind: refMaxStreamData, stream: st})
		st.maxDataDue = false
	}
	if st.resetDue && room() {
		if !st.resetSent {
			st.resetSent = true
			st.send.reset()
		}
		b = appendResetStreamFrame(b, resetStreamFrame{st.id, st.resetCode, st.send.sentOffset()})
		refs = append(refs, frameRef{kind: refResetStream, stream: st})
		st.resetDue = false
	}
	if st.stopDue && room() {
		b = appendStopSendingFrame(b, stopSendingFrame{st.id, st.stopCode})
		refs = append(refs, frameRef{kind: refStopSending, stream: st})
		st.stopDue = false
	}
	return b, refs
}
