package ri2n

import (
	"net/netip"
	"time"
)

// maxHandshakeTuples bounds the candidate transport addresses of one handshake.
const maxHandshakeTuples = 8

// A tuple is one candidate transport address of a handshake, with the ledger
// that keeps us from sending an unproven address more than three times what
// it sent (RFC 9000, section 8.1).
type tuple struct {
	link           *Link
	addr           netip.AddrPort
	due            time.Time // client: first use
	used           bool
	proven         bool
	received, sent int
	largest        int // datagram that came from it, in bytes
}

// tuple returns the ledger of a transport address. A server learns new ones
// from Initials, a client knows all of its own.
func (h *handshake) tuple(l *Link, addr netip.AddrPort) *tuple {
	for _, t := range h.tuples {
		if t.link == l && t.addr == addr {
			return t
		}
	}
	if h.client || len(h.tuples) == maxHandshakeTuples {
		return nil
	}
	t := &tuple{link: l, addr: addr}
	h.tuples = append(h.tuples, t)
	h.endpoint.watchEarly(tupleKey{l, addr}, h)
	return t
}

// candidateDelay is when candidate i joins the dial: 0, 20, 50, 100, 150 ... ms.
func candidateDelay(i int) time.Duration {
	switch i {
	case 0:
		return 0
	case 1:
		return 20 * time.Millisecond
	}
	return time.Duration(i-1) * 50 * time.Millisecond
}
