package netsim

import (
	"fmt"
	"net/netip"
	"time"
)

// A TraceKind says what happened to a packet.
type TraceKind int

const (
	TraceSend      TraceKind = iota // a socket sent it
	TraceTranslate                  // a NAT changed its source or destination
	TraceDeliver                    // it reached a socket
	TraceDrop                       // it ended on the way
)

func (k TraceKind) String() string {
	switch k {
	case TraceSend:
		return "send"
	case TraceTranslate:
		return "translate"
	case TraceDeliver:
		return "deliver"
	case TraceDrop:
		return "drop"
	}
	return "unknown"
}

// A TraceEvent is one step of one packet.
type TraceEvent struct {
	At       time.Duration // since the start
	Kind     TraceKind
	Place    string    // a node, "core" or a link's direction, as in Drop
	Cause    DropCause // of TraceDrop
	Src, Dst netip.AddrPort
	// TooBig is set in an ICMP message "packet too big": the MTU of the link,
	// in bytes. Src and Dst are those of the packet that it quotes, exchanged.
	TooBig  int
	Payload []byte // valid during the call only
}

// String returns one line of a transcript, without the payload.
func (e TraceEvent) String() string {
	s := fmt.Sprintf("%12v %-9v %-16s %v -> %v %d bytes", e.At, e.Kind, e.Place, e.Src, e.Dst, len(e.Payload))
	if e.TooBig > 0 {
		s += fmt.Sprintf(" (too big for %d)", e.TooBig)
	}
	if e.Kind == TraceDrop {
		s += " (" + e.Cause.String() + ")"
	}
	return s
}

type tracer func(at time.Duration, k TraceKind, place string, cause DropCause, p *packet)

// traceTo returns a tracer that calls f.
func traceTo(f func(TraceEvent)) tracer {
	return func(at time.Duration, k TraceKind, place string, cause DropCause, p *packet) {
		f(TraceEvent{At: at, Kind: k, Place: place, Cause: cause, Src: p.src, Dst: p.dst, TooBig: p.tooBig, Payload: p.payload})
	}
}
