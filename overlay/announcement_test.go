package overlay

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"testing"

	"github.com/instantgrid/instantgrid/routing"
)

// testAnnouncement is that of identity 7, with a proof that no ledger signed.
func testAnnouncement(t testing.TB) *announcement {
	key := ed25519.NewKeyFromSeed(identity(t, 7).Seed())
	a := &announcement{
		member: routing.NewMember(routing.PeerID(identity(t, 7).PeerID()), routing.Nonce{1}, []byte("proof")),
		issued: 946684800000,
		addresses: []netip.AddrPort{
			netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("[2001:db8::1]:4001"),
		},
	}
	a.sign(key)
	return a
}

func TestAnnouncementMatchesGoldenBytes(t *testing.T) {
	a := testAnnouncement(t)
	encoded := appendAnnouncement(nil, a)
	compareHex(t, "announcement", "overlay.announcement. Peer ID, nonce, length and proof, key, issued, addresses, signature.", encoded, 32, 32, 2, 5, 32, 8, 1, 7, 19)
	got, err := parseAnnouncement(encoded)
	if err != nil || !bytes.Equal(appendAnnouncement(nil, got), encoded) || !got.signed() {
		t.Errorf("parsed %+v, %v", got, err)
	}
	for n := range len(encoded) {
		if _, err := parseAnnouncement(encoded[:n]); !errors.Is(err, errMalformed) {
			t.Errorf("first %d of %d bytes: %v, want errMalformed", n, len(encoded), err)
		}
	}
	got.addresses[0] = netip.MustParseAddrPort("192.0.2.2:4000")
	if got.signed() {
		t.Error("another address, and the signature holds")
	}
}

func FuzzParseAnnouncement(f *testing.F) {
	f.Add(appendAnnouncement(nil, testAnnouncement(f)))
	f.Add(append(make([]byte, 66+41), make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnnouncement(b)
		if err != nil {
			return
		}
		if again := appendAnnouncement(nil, a); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, a, again)
		}
	})
}
