package ri2n

import (
	"net/netip"
	"time"
)

// A Tracer is told what happens in one session, as it happens.
//
// Trace is called with the session's mutex held: it must return at once, must
// not block and must not call the session or its streams. Events arrive in
// order, with times that never go back. What an event refers to belongs to the
// tracer and may be kept. No event holds a key, a token or a byte of users.
//
// Package qlog below this folder has a tracer that writes files.
type Tracer interface {
	Trace(now time.Time, e TraceEvent)
}

// A TraceEvent is one of the types below whose names begin with Trace.
// Further ones may be added.
type TraceEvent interface{ traceEvent() }

// TraceStarted is the first event of a session: its handshake is complete.
type TraceStarted struct {
	Client      bool // this side dialed
	Local, Peer PeerID
}

// TraceClosed tells that the session has ended for its users.
type TraceClosed struct {
	Err    error // as Session.Err
	Remote bool  // the peer ended it
}

// TracePacketSent is a 1-RTT packet that leaves on a path. It is reported when
// it is built, before the socket has taken it.
type TracePacketSent struct {
	Path   uint32
	Number uint64
	Size   int // bytes of UDP payload
	Frames []TraceFrame
}

// TracePacketReceived is an authenticated packet that is no duplicate.
type TracePacketReceived struct {
	Path   uint32
	Number uint64
	Size   int // bytes of UDP payload
	Frames []TraceFrame
}

// TracePacketLost is a packet declared lost (RFC 9002, section 6.1). Packets
// given up because their path became suspect are counted in TracePath instead.
type TracePacketLost struct {
	Path   uint32
	Number uint64
	Size   int
	ByTime bool // by the time threshold rather than the packet threshold
}

// TraceMetrics are the figures of one path, reported at most once in
// [TraceInterval] and when the path closes.
type TraceMetrics struct{ PathInfo }

// TraceInterval is the least time between two TraceMetrics of one path.
const TraceInterval = 10 * time.Millisecond

// TracePath tells that a path has another state, is new, has another address,
// or that this side begins or ceases to prefer it for its data.
type TracePath struct {
	Path          uint32
	Link          string
	Carrier       bool
	Local, Remote netip.AddrPort // zero for a carrier
	Old, New      PathState      // Old is PathProbing for a new path
	Sending       bool
	Reinjected    uint64 // packets of the path sent again elsewhere so far
}

// TraceBurst is a choice of the scheduler: a burst of packets leaves on a path.
type TraceBurst struct {
	Path    uint32
	Packets int
	Bytes   int
}

// TraceKeyUpdate tells that keys of a direction have been replaced.
type TraceKeyUpdate struct {
	Sending bool   // the keys of what this side sends
	Phase   uint64 // updates of this direction so far
}

// TraceStream tells that a stream began or is over in both directions.
type TraceStream struct {
	ID       uint64
	Open     bool
	Sent     uint64 // bytes of the stream, each counted once
	Received uint64
}

func (TraceStarted) traceEvent()        {}
func (TraceClosed) traceEvent()         {}
func (TracePacketSent) traceEvent()     {}
func (TracePacketReceived) traceEvent() {}
func (TracePacketLost) traceEvent()     {}
func (TraceMetrics) traceEvent()        {}
func (TracePath) traceEvent()           {}
func (TraceBurst) traceEvent()          {}
func (TraceKeyUpdate) traceEvent()      {}
func (TraceStream) traceEvent()         {}

// A TraceFrame is one frame of a packet, without its data and tokens. PADDING
// is one frame, however long.
type TraceFrame struct {
	Type   string // as docs/wire-format.md calls it
	ID     uint64 // of the stream or path that the frame is about, if it is about one
	Offset uint64 // of STREAM; the limit of MAX_ and BLOCKED frames; a code of RESET_STREAM and the like
	Length int    // bytes of data or padding
	FIN    bool
	Acked  []TraceRange // of PATH_ACK, descending
}

// A TraceRange is a run of packet numbers, both included.
type TraceRange struct{ Smallest, Largest uint64 }

// traceFrames lists the frames of a packet in plain text. It stops at what
// does not parse.
func traceFrames(b []byte) []TraceFrame {
	var frames []TraceFrame
	for len(b) > 0 {
		typ, rest, err := parseVarint(b)
		if err != nil {
			return frames
		}
		f, rest, err := traceFrame(typ, rest)
		if err != nil {
			return frames
		}
		f.Type = frameName(typ)
		frames = append(frames, f)
		b = rest
	}
	return frames
}

func traceFrame(typ uint64, b []byte) (t TraceFrame, rest []byte, err error) {
	if isStreamFrame(typ) {
		f, rest, err := parseStreamFrame(b, typ)
		return TraceFrame{ID: f.id, Offset: f.offset, Length: len(f.data), FIN: f.fin}, rest, err
	}
	switch typ {
	case framePadding:
		rest = skipPadding(b)
		t.Length = 1 + len(b) - len(rest)
	case framePing, frameHandshakeDone:
		rest = b
	case framePathAck, framePathAckECN:
		var f ackFrame
		f, rest, err = parseAckFrame(b, typ, nil)
		t.ID = uint64(f.path)
		for _, r := range f.ranges {
			t.Acked = append(t.Acked, TraceRange{uint64(r.smallest), uint64(r.largest)})
		}
	case frameDatagram, frameDatagramLen:
		var f datagramFrame
		f, rest, err = parseDatagramFrame(b, typ)
		t.Length = len(f.data)
	case frameDatagramNumbered:
		var f datagramNumberedFrame
		f, rest, err = parseDatagramNumberedFrame(b)
		t.Offset, t.Length = f.number, len(f.data)
	case frameResetStream:
		var f resetStreamFrame
		f, rest, err = parseResetStreamFrame(b)
		t.ID, t.Offset = f.id, f.code
	case frameStopSending:
		var f stopSendingFrame
		f, rest, err = parseStopSendingFrame(b)
		t.ID, t.Offset = f.id, f.code
	case frameMaxData:
		var f maxDataFrame
		f, rest, err = parseMaxDataFrame(b)
		t.Offset = f.limit
	case frameMaxStreamData:
		var f maxStreamDataFrame
		f, rest, err = parseMaxStreamDataFrame(b)
		t.ID, t.Offset = f.id, f.limit
	case frameMaxStreamsBidi, frameMaxStreamsUni:
		var f maxStreamsFrame
		f, rest, err = parseMaxStreamsFrame(b, typ)
		t.Offset = f.limit
	case frameDataBlocked:
		_, rest, err = parseDataBlockedFrame(b)
	case frameStreamDataBlocked:
		_, rest, err = parseStreamDataBlockedFrame(b)
	case frameStreamsBlockedBidi, frameStreamsBlockedUni:
		_, rest, err = parseStreamsBlockedFrame(b, typ)
	case framePathChallenge:
		_, rest, err = parsePathChallengeFrame(b)
	case framePathResponse:
		_, rest, err = parsePathResponseFrame(b)
	case framePathStatus:
		var f pathStatusFrame
		f, rest, err = parsePathStatusFrame(b)
		t.ID, t.Offset = uint64(f.path), uint64(f.status)
	case framePathAbandon:
		var f pathAbandonFrame
		f, rest, err = parsePathAbandonFrame(b)
		t.ID, t.Offset = uint64(f.path), f.code
	case frameMaxPaths:
		var f maxPathsFrame
		f, rest, err = parseMaxPathsFrame(b)
		t.Offset = uint64(f.limit)
	case frameClose:
		var f closeFrame
		f, rest, err = parseCloseFrame(b)
		t.Offset = f.code
	case frameAddrAdd, frameAddrRemove, frameObservedAddr:
		_, rest, err = parseAddrFrame(b, typ)
	case frameAckFreq:
		var f ackFreqFrame
		f, rest, err = parseAckFreqFrame(b)
		t.Offset = f.threshold
	default:
		err = errMalformed
	}
	return t, rest, err
}
