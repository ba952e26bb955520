package netsim

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// A gate is the state of a firewall: the packets that may pass at once.
type gate struct {
	tokens float64
	since  time.Duration
	used   bool
}

// pass decides whether a packet with the given remote may cross the router.
func (t *translator) pass(now time.Duration, remote netip.AddrPort, payload []byte) (DropCause, bool) {
	f := t.cfg.Firewall
	switch {
	case f == nil:
		return 0, true
	case f.BlockUDP,
		len(f.Ports) > 0 && !slices.Contains(f.Ports, remote.Port()),
		f.DropSTUN && isSTUN(payload):
		return DropBlocked, false
	case f.PacketRate > 0 && !t.gate.take(now, f.PacketRate):
		return DropRate, false
	}
	return 0, true
}

// take reports whether one more packet keeps to rate, in packets a second.
func (g *gate) take(now time.Duration, rate int) bool {
	burst := float64(rate)/10 + 1
	if !g.used {
		g.tokens, g.used = burst, true
	}
	g.tokens = min(burst, g.tokens+(now-g.since).Seconds()*float64(rate))
	g.since = now
	if g.tokens < 1 {
		return false
	}
	g.tokens--
	return true
}

// isSTUN reports whether a payload has the magic cookie (RFC 8489, section 5).
func isSTUN(b []byte) bool {
	return len(b) >= 20 && b[0] < 4 && binary.BigEndian.Uint32(b[4:8]) == 0x2112a442
}
