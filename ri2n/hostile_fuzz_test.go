package ri2n

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// sealInitial returns a client's Initial with frames, which may be anything:
// whoever knows the responder's peer ID can seal it.
func sealInitial(responder PeerID, dcid, scid connID, pn uint16, frames []byte) []byte {
	key := mac1Key(responder)
	keys, _ := initialKeys(dcid)
	h := longHeader{typ: longInitial, version: version1, dcid: dcid, scid: scid, pn: pn}
	if pad := baseSize - longHeaderLen(h) - aeadOverhead - len(frames); pad > 0 {
		frames = appendPadding(frames[:len(frames):len(frames)], pad)
	}
	h.length = uint16(2 + len(frames) + aeadOverhead)
	b := appendLongHeader(nil, h, &key)
	headerLen := len(b)
	b = append(b, frames...)
	b = append(b, make([]byte, aeadOverhead)...)
	return keys.seal(b[:len(b)-aeadOverhead], headerLen, 0, packetNumber(pn))
}

// FuzzInitialFrames feeds a responder with Initials whose frames are anything.
// Whatever they are, a handshake ends and leaves nothing behind.
func FuzzInitialFrames(f *testing.F) {
	e := newTestEndpoint(keepTB{f})
	f.Cleanup(func() { e.Close() })
	l := addLoopback(f, e)
	var id connID
	f.Fuzz(func(t *testing.T, frames []byte) {
		if len(frames) > 1300 {
			return
		}
		id += 2
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 9)
		half := len(frames) / 2
		for pn, b := range [][]byte{frames, frames[:half], frames[half:]} {
			datagram := sealInitial(e.PeerID(), id, id+1, uint16(pn), b)
			e.acceptInitial(l, from, datagram, initialStart{odcid: id}, time.Now())
		}
		e.mu.Lock()
		count := e.halfOpen.count
		e.mu.Unlock()
		if count > maxHalfOpen {
			t.Fatalf("half-open = %d", count)
		}
		if h := e.routes.findLong(id); h != nil {
			h.abort(context.Canceled)
			h.mu.Lock()
			if h.state != handshakeRunning {
				h.bury() // no tombstones: there is one handshake in each execution
			}
			h.mu.Unlock()
		}
	})
}

// FuzzDialer feeds raw datagrams to an endpoint that dials somebody silent.
// Before each datagram stands its length in two bytes; those with a long
// header are addressed to the dial.
func FuzzDialer(f *testing.F) {
	p := newFuzzPeer(f)
	f.Cleanup(p.close)
	peer := p.e.PeerID()
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := p.a.newClientHandshake(peer, []Remote{p.to})
		if err != nil {
			t.Fatal(err)
		}
		mac := newMAC1Hasher(mac1Key(peer))
		now := time.Now()
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			datagram := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			if len(datagram) >= longPrefixLen && isLongPacket(datagram[0]) {
				binary.BigEndian.PutUint64(datagram[5:], uint64(h.scid))
				if datagram[0]>>4&3 == byte(longVersionNegotiation) {
					binary.BigEndian.PutUint64(datagram[13:], uint64(h.firstDCID))
				}
				if hdr, _, _, err := parseLongHeader(datagram); err == nil && hdr.typ.hasMAC1() {
					at := longPrefixLen + 2 + len(hdr.token)
					m := mac.mac(datagram[:at])
					copy(datagram[at:], m[:])
				}
			}
			h.receive(p.to.Link, netip.AddrPort{}, datagram, false, now)
		}
		h.abort(context.Canceled)
		<-h.finished
		if h.session != nil {
			t.Fatal("a session with nobody")
		}
		if p.a.routes.findLong(h.scid) != nil {
			t.Fatal("the dial left its connection ID behind")
		}
	})
}
