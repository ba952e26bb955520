package server

import (
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

var t0 = time.Unix(1_700_000_000, 0)

func peerID(fill byte) (id ri2n.PeerID) {
	for i := range id {
		id[i] = fill
	}
	return id
}

// from returns an address in prefix number net.
func from(net, host int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(net >> 8), byte(net), byte(host)}), 4000)
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var l refusalLog
	lines := 0
	for i := range 100_000 { // ten seconds of 10,000 strangers a second
		id := peerID(1)
		id[0], id[1] = byte(i), byte(i>>8)
		if l.due(t0.Add(time.Duration(i)*100*time.Microsecond), id) {
			lines++
		}
	}
	if lines > 11 || len(l.said) > maxSaid {
		t.Errorf("%d lines in 10 s, %d peers remembered", lines, len(l.said))
	}
	if !l.due(t0.Add(time.Hour), peerID(9)) || l.due(t0.Add(time.Hour+30*time.Second), peerID(9)) {
		t.Error("a peer is not logged once a minute")
	}
}
