// Package fifo delivers messages from one process to another exactly once and
// in the order sent, whatever happens to paths and places in between: the
// carrier below may lose, repeat and reorder frames, and may bring them by way
// of other nodes.
//
// A [Sender] numbers its messages and keeps each until it is acknowledged; a
// [Receiver] puts them in order and drops repetitions. Both are bounded by a
// window of [Window] messages and [WindowBytes] bytes. They are for one direction of one pair
// of processes, and are named by a session number: the incarnation of the
// sending process, so that what a process of an earlier incarnation still
// sends is refused. A process that moves takes [Sender.Unacked] and
// [Receiver.Next] along, and goes on elsewhere with [ResumeSender] and
// [NewReceiver].
//
// Both are state machines with one owner each, the same or different ones.
// They do not know that the other side is dead: that is for a failure detector.
//
// Frames are in docs/routing-protocol.md, section 9. The retransmission timer
// follows RFC 6298.
package fifo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	// Window is how many messages may be unacknowledged.
	Window = 64

	// WindowBytes is how many bytes of messages may be unacknowledged.
	WindowBytes = 1 << 20

	// Overhead is how much longer than its message a frame is, in bytes.
	Overhead = 1 + 1 + 8 + 8
)

// ErrFull reports that the window is full: the other side has to acknowledge
// something first.
var ErrFull = errors.New("fifo: the window is full")

// ErrMalformed is the cause of every error of the parser.
var ErrMalformed = errors.New("fifo: malformed frame")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// version is the only version of the frames.
const version = 1

// A kind tells what a frame is.
type kind uint8

const (
	kindData kind = 1
	kindAck  kind = 2
)

// A frame is a message or an acknowledgement.
type frame struct {
	kind    kind
	session uint64
	number  uint64 // DATA: of this message, from 1; ACK: of the next one in order
	bitmap  uint64 // ACK: bit i: message number+1+i has arrived as well
	payload []byte // DATA
}

func appendFrame(b []byte, f *frame) []byte {
	b = append(b, version, byte(f.kind))
	b = binary.BigEndian.AppendUint64(b, f.session)
	b = binary.BigEndian.AppendUint64(b, f.number)
	if f.kind == kindAck {
		return binary.BigEndian.AppendUint64(b, f.bitmap)
	}
	return append(b, f.payload...)
}

// parseFrame decodes b, which is one frame and nothing else. The payload
// aliases b.
func parseFrame(b []byte) (f frame, err error) {
	if len(b) < Overhead {
		return f, malformed("it is cut short")
	}
	if b[0] != version {
		return f, malformed("version %d", b[0])
	}
	f.kind, f.session, f.number = kind(b[1]), binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint64(b[10:])
	if f.number == 0 {
		return f, malformed("number zero")
	}
	b = b[Overhead:]
	switch f.kind {
	case kindData:
		if len(b) > WindowBytes {
			return f, malformed("%d bytes", len(b))
		}
		if len(b) > 0 {
			f.payload = b
		}
	case kindAck:
		if len(b) != 8 {
			return f, malformed("an acknowledgement of %d bytes", len(b))
		}
		f.bitmap = binary.BigEndian.Uint64(b)
	default:
		return f, malformed("kind %d", f.kind)
	}
	return f, nil
}

// IsAck reports whether b, a frame, is for a Sender rather than a Receiver.
func IsAck(b []byte) bool { return len(b) > 1 && kind(b[1]) == kindAck }

const (
	// minTimeout and maxTimeout bound the retransmission timer. The maximum is
	// short, since a process that has just been revived elsewhere shall not
	// wait long for what it missed.
	minTimeout = 200 * time.Millisecond
	maxTimeout = 5 * time.Second

	// burst is how many messages are sent again at a time.
	burst = 8
)

// A Sender sends the messages of one process to another.
type Sender struct {
	session uint64
	send    func(now time.Time, frame []byte)

	base    uint64 // of the first message that is unacknowledged
	unacked []outgoing
	bytes   int

	srtt, rttvar time.Duration
	backoff      uint
	due          time.Time // of the retransmission timer; zero: not armed

	repeated uint64
}

// An outgoing message is one that is unacknowledged.
type outgoing struct {
	payload []byte
	sent    time.Time
	again   bool // sent more than once, so no measure of the round trip
	arrived bool // acknowledged out of order
}

// NewSender returns a sender whose first message has number 1. session is
// greater than that of any earlier sender of this process to the same other
// one. send takes a frame, which belongs to it, to the other side; it must not
// call the sender before it returns.
func NewSender(session uint64, send func(now time.Time, frame []byte)) *Sender {
	return &Sender{session: session, send: send, base: 1}
}

// ResumeSender returns a sender that goes on where another one with the same
// session stopped: first and unacked are what its Unacked returned. They are
// sent again at now.
func ResumeSender(now time.Time, session, first uint64, unacked [][]byte, send func(now time.Time, frame []byte)) *Sender {
	s := &Sender{session: session, send: send, base: first}
	for _, p := range unacked {
		s.unacked = append(s.unacked, outgoing{payload: p, sent: now, again: true})
		s.bytes += len(p)
	}
	if len(s.unacked) > 0 {
		s.due = now
	}
	return s
}

// Unacked returns the messages that are not known to have arrived, and the
// number of the first of them, or of the next message if there is none. Some
// later ones may have arrived.
func (s *Sender) Unacked() (first uint64, payloads [][]byte) {
	for i := range s.unacked {
		payloads = append(payloads, s.unacked[i].payload)
	}
	return s.base, payloads
}

// Repeated returns how many frames were sent more than once.
func (s *Sender) Repeated() uint64 { return s.repeated }

// Send sends payload, which is copied. The error is [ErrFull]; nothing was
// sent then, and trying again once the other side has acknowledged something
// may succeed. A payload of any size passes when nothing else is under way.
func (s *Sender) Send(now time.Time, payload []byte) error {
	if len(s.unacked) >= Window || len(s.unacked) > 0 && s.bytes+len(payload) > WindowBytes {
		return ErrFull
	}
	p := append([]byte(nil), payload...)
	s.unacked = append(s.unacked, outgoing{payload: p, sent: now})
	s.bytes += len(p)
	s.transmit(now, len(s.unacked)-1)
	if s.due.IsZero() {
		s.due = now.Add(s.timeout())
	}
	return nil
}

func (s *Sender) transmit(now time.Time, i int) {
	f := frame{kind: kindData, session: s.session, number: s.base + uint64(i), payload: s.unacked[i].payload}
	s.send(now, appendFrame(make([]byte, 0, Overhead+len(f.payload)), &f))
}

// timeout is the retransmission timer of RFC 6298, section 2.
func (s *Sender) timeout() time.Duration {
	t := time.Second
	if s.srtt > 0 {
		t = max(minTimeout, s.srtt+4*s.rttvar)
	}
	return min(t<<min(s.backoff, 8), maxTimeout)
}

// Receive takes an acknowledgement. The error is [ErrMalformed]; frames of
// other sessions are ignored.
func (s *Sender) Receive(now time.Time, b []byte) error {
	f, err := parseFrame(b)
	if err != nil {
		return err
	}
	if f.kind != kindAck {
		return malformed("kind %d for a sender", f.kind)
	}
	if f.session != s.session || f.number > s.base+uint64(len(s.unacked)) {
		return nil
	}
	news := false
	for s.base < f.number {
		s.arrived(now, 0)
		s.bytes -= len(s.unacked[0].payload)
		s.unacked[0] = outgoing{}
		s.unacked = s.unacked[1:]
		s.base++
		news = true
	}
	if f.number == s.base {
		// The first has not arrived. What is said of the others holds both
		// ways: a receiver that moved has left behind what came early.
		for i := range s.unacked {
			o := &s.unacked[i]
			has := i > 0 && f.bitmap>>(i-1)&1 == 1
			if has && !o.arrived {
				s.arrived(now, i)
				news = true
			} else if !has && o.arrived {
				o.arrived, o.again = false, true
			}
		}
	}
	if news {
		s.backoff = 0
		s.due = now.Add(s.timeout())
	}
	if len(s.unacked) == 0 {
		s.due = time.Time{}
	}
	return nil
}

// arrived notes that the i-th message has arrived, and measures the round
// trip (RFC 6298, section 2; Karn's rule).
func (s *Sender) arrived(now time.Time, i int) {
	o := &s.unacked[i]
	if o.arrived {
		return
	}
	o.arrived = true
	if o.again {
		return
	}
	rtt := now.Sub(o.sent)
	if s.srtt == 0 {
		s.srtt, s.rttvar = rtt, rtt/2
		return
	}
	s.rttvar += ((s.srtt - rtt).Abs() - s.rttvar) / 4
	s.srtt += (rtt - s.srtt) / 8
}

// Moved says that the other side is to be reached anew, or elsewhere: what is
// unacknowledged is sent again at the next Advance.
func (s *Sender) Moved(now time.Time) {
	if len(s.unacked) > 0 {
		s.backoff, s.due = 0, now
	}
}

// Deadline returns when Advance must be called next, or zero for never.
func (s *Sender) Deadline() time.Time { return s.due }

// Advance sends again what has not arrived in time.
func (s *Sender) Advance(now time.Time) {
	if s.due.IsZero() || now.Before(s.due) {
		return
	}
	sent := 0
	for i := range s.unacked {
		if o := &s.unacked[i]; !o.arrived && sent < burst {
			o.again = true
			s.transmit(now, i)
			s.repeated++
			sent++
		}
	}
	s.backoff++
	s.due = now.Add(s.timeout())
}

// A Receiver receives the messages of one process from another.
type Receiver struct {
	session uint64
	next    uint64
	early   map[uint64][]byte // arrived before next
	bytes   int

	send    func(now time.Time, frame []byte)
	deliver func(now time.Time, payload []byte)

	repeated, stale, beyond uint64
}

// NewReceiver returns a receiver that delivers from message next of session
// on: 0 and 1, or what [Receiver.Next] returned before the process moved. send
// takes acknowledgements, which belong to it, to the sender; deliver gets each
// message once and in order, and may keep it. Neither may call the receiver.
func NewReceiver(session, next uint64, send func(now time.Time, frame []byte), deliver func(now time.Time, payload []byte)) *Receiver {
	return &Receiver{session: session, next: max(next, 1), send: send, deliver: deliver}
}

// Next returns the session and the number of the next message to deliver.
func (r *Receiver) Next() (session, next uint64) { return r.session, r.next }

// Dropped returns how many frames were dropped: as repetitions, as those of
// an earlier incarnation of the sender, and beyond the window.
func (r *Receiver) Dropped() (repeated, stale, beyond uint64) { return r.repeated, r.stale, r.beyond }

// Receive takes a frame of the sender, and delivers what is in order by then.
// The frame must not be changed afterwards. The error is [ErrMalformed].
func (r *Receiver) Receive(now time.Time, b []byte) error {
	f, err := parseFrame(b)
	if err != nil {
		return err
	}
	if f.kind != kindData {
		return malformed("kind %d for a receiver", f.kind)
	}
	if f.session < r.session {
		r.stale++
		return nil
	}
	if f.session > r.session {
		// The sender was started anew.
		r.session, r.next, r.early, r.bytes = f.session, 1, nil, 0
	}
	switch {
	case f.number < r.next:
		r.repeated++
	case f.number == r.next:
		r.next++
		r.deliver(now, f.payload)
		r.drain(now)
	default:
		r.keep(&f)
	}
	r.ack(now)
	return nil
}

// keep holds a message that came early.
func (r *Receiver) keep(f *frame) {
	if _, ok := r.early[f.number]; ok {
		r.repeated++
		return
	}
	if f.number-r.next > Window || r.bytes+len(f.payload) > WindowBytes {
		r.beyond++
		return
	}
	if r.early == nil {
		r.early = make(map[uint64][]byte)
	}
	r.early[f.number] = f.payload
	r.bytes += len(f.payload)
}

// drain delivers what was early and is in order now.
func (r *Receiver) drain(now time.Time) {
	for {
		p, ok := r.early[r.next]
		if !ok {
			return
		}
		delete(r.early, r.next)
		r.bytes -= len(p)
		r.next++
		r.deliver(now, p)
	}
}

// ack tells the sender what has arrived.
func (r *Receiver) ack(now time.Time) {
	f := frame{kind: kindAck, session: r.session, number: r.next}
	for i := range uint64(Window) {
		if _, ok := r.early[r.next+1+i]; ok {
			f.bitmap |= 1 << i
		}
	}
	r.send(now, appendFrame(make([]byte, 0, Overhead+8), &f))
}
