package ri2n

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestRetryToken(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	addr := netip.MustParseAddrPort("192.0.2.1:4000")
	for _, tt := range []struct {
		name string
		addr string
		at   time.Duration // of the check
		ok   bool
	}{
		{"at once", "192.0.2.1:4000", 0, true},
		{"in its mapped form", "[::ffff:192.0.2.1]:4000", 0, true},
		{"at the end of its life", "192.0.2.1:4000", retryTokenLifetime, true},
		{"expired", "192.0.2.1:4000", retryTokenLifetime + 1, false},
		{"before it was issued", "192.0.2.1:4000", -1, false},
		{"from another port", "192.0.2.1:4001", 0, false},
		{"from another address", "192.0.2.2:4000", 0, false},
	} {
		r := newRetryTokens(rand.Reader)
		token := r.issue(start, addr, 0xabc)
		if len(token) != retryTokenLen {
			t.Fatalf("token has %d bytes, want %d", len(token), retryTokenLen)
		}
		odcid, err := r.open(start.Add(tt.at), netip.MustParseAddrPort(tt.addr), token)
		if (err == nil) != tt.ok || tt.ok && odcid != 0xabc {
			t.Errorf("%s: %#x, %v", tt.name, odcid, err)
		}
		if err != nil && !errors.Is(err, errRetryToken) {
			t.Errorf("%s: %v, want %v", tt.name, err, errRetryToken)
		}
	}
}

func TestRetryTokenBytes(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	addr := netip.MustParseAddrPort("[2001:db8::1]:4000")
	r := newRetryTokens(rand.Reader)
	token := r.issue(now, addr, 1)
	for n := range len(token) {
		if _, err := r.open(now, addr, token[:n]); err == nil {
			t.Errorf("the first %d bytes are accepted", n)
		}
	}
	if _, err := r.open(now, addr, append(bytes.Clone(token), 0)); err == nil {
		t.Error("a byte more is accepted")
	}
	for i := range token {
		bad := bytes.Clone(token)
		bad[i] ^= 1
		if _, err := r.open(now, addr, bad); err == nil {
			t.Errorf("accepted with byte %d changed", i)
		}
	}
	if _, err := newRetryTokens(rand.Reader).open(now, addr, token); err == nil {
		t.Error("another endpoint accepts it")
	}
}

// A key lives at least as long as its tokens, and a token no longer than two.
func TestRetryTokenRotation(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	addr := netip.MustParseAddrPort("192.0.2.1:4000")
	r := newRetryTokens(rand.Reader)
	first := r.issue(start, addr, 1)
	last := r.issue(start.Add(retryTokenLifetime-1), addr, 2) // the same key's
	r.issue(start.Add(retryTokenLifetime), addr, 3)           // rotates
	if _, err := r.open(start.Add(retryTokenLifetime), addr, first); err != nil {
		t.Errorf("the first token, not yet expired, after a rotation: %v", err)
	}
	if odcid, err := r.open(start.Add(2*retryTokenLifetime-1), addr, last); err != nil || odcid != 2 {
		t.Errorf("the last token of the previous key: %d, %v", odcid, err)
	}
	r.issue(start.Add(2*retryTokenLifetime), addr, 4) // rotates again
	for name, token := range map[string][]byte{"first": first, "last": last} {
		// Even with the clock set back, its key is gone.
		if _, err := r.open(start.Add(retryTokenLifetime), addr, token); err == nil {
			t.Errorf("the %s token is accepted two rotations later", name)
		}
	}

	// Generations are one byte: none returns while its tokens could.
	r = newRetryTokens(rand.Reader)
	old := r.issue(start, addr, 1)
	now := start
	for range 256 {
		now = now.Add(retryTokenLifetime)
		r.issue(now, addr, 1)
	}
	if _, err := r.open(now, addr, old); err == nil {
		t.Error("a token is accepted 256 rotations later")
	}
}

func TestRetryTokenWithoutRandomness(t *testing.T) {
	r := newRetryTokens(iotest.ErrReader(errors.New("no entropy")))
	addr := netip.MustParseAddrPort("192.0.2.1:4000")
	if token := r.issue(time.Unix(0, 0), addr, 1); token != nil {
		t.Errorf("issued %x", token)
	}
	if _, err := r.open(time.Unix(0, 0), addr, make([]byte, retryTokenLen)); err == nil {
		t.Error("a token of zeros is accepted before there is a key")
	}
}

func TestRetryTokensConcurrently(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	r := newRetryTokens(rand.Reader)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(g)}), 1)
			for i := range 50 {
				now := start.Add(time.Duration(i) * time.Millisecond)
				odcid, err := r.open(now, addr, r.issue(now, addr, connID(i)))
				if err != nil || odcid != connID(i) {
					t.Errorf("odcid = %d, %v; want %d", odcid, err, i)
				}
			}
		})
	}
	wg.Wait()
}

func TestStatelessReset(t *testing.T) {
	key := [32]byte{1}
	token := statelessResetToken(&key, 7)
	if other := statelessResetToken(&key, 8); other == token {
		t.Error("two connection IDs share a token")
	}
	if other := statelessResetToken(&[32]byte{2}, 7); other == token {
		t.Error("two endpoints share a token")
	}
	for _, tt := range []struct{ maxLen, want int }{
		{-1, 0},
		{0, 0},
		{minStatelessReset - 1, 0},
		{minStatelessReset, minStatelessReset},
		{maxStatelessReset, maxStatelessReset},
		{1471, maxStatelessReset},
	} {
		b := appendStatelessReset([]byte("before"), rand.Reader, token, tt.maxLen)[len("before"):]
		if len(b) != tt.want {
			t.Errorf("maxLen %d: %d bytes, want %d", tt.maxLen, len(b), tt.want)
		}
		if len(b) == 0 {
			continue
		}
		if h, _, err := parseShortHeader(b); err != nil || h.reserved != 0 {
			t.Errorf("maxLen %d: %x is no short packet: %v", tt.maxLen, b, err)
		}
		if !isStatelessReset(b, token) {
			t.Errorf("maxLen %d: %x is not recognised", tt.maxLen, b)
		}
		for i := range resetTokenLen {
			b[len(b)-1-i] ^= 0x80
			if isStatelessReset(b, token) {
				t.Errorf("recognised with byte %d of the token changed", resetTokenLen-1-i)
			}
			b[len(b)-1-i] ^= 0x80
		}
		if isStatelessReset(b[len(b)-resetTokenLen:], token) {
			t.Error("a bare token is recognised")
		}
		b[0] |= bitLong
		if isStatelessReset(b, token) {
			t.Error("a long packet is recognised")
		}
	}
	if b := appendStatelessReset(nil, iotest.ErrReader(errors.New("no entropy")), token, 100); b != nil {
		t.Errorf("without randomness: %x", b)
	}
}

// Two endpoints that know nothing of each other's packets fall silent.
func TestStatelessResetLoopEnds(t *testing.T) {
	size := 1472
	for rounds := 0; size > 0; rounds++ {
		if rounds > maxStatelessReset {
			t.Fatal("resets answer resets for ever")
		}
		size = len(appendStatelessReset(nil, rand.Reader, [resetTokenLen]byte{}, size-1))
	}
}

func TestDerivedConnIDs(t *testing.T) {
	client, server := newCIDDeriver([16]byte{1}), newCIDDeriver([16]byte{2})
	seen := make(map[connID]bool)
	for path := range pathID(200) {
		for seq := range uint32(50) {
			seen[client.cid(path, seq)] = true
			seen[server.cid(path, seq)] = true
		}
	}
	if want := 2 * 200 * 50; len(seen) != want {
		t.Errorf("%d connection IDs, want %d", len(seen), want)
	}
	if got, again := client.cid(3, 4), newCIDDeriver([16]byte{1}).cid(3, 4); got != again {
		t.Errorf("the two sides derive %#x and %#x", got, again)
	}
}

func TestErrorCodes(t *testing.T) {
	for _, tt := range []struct {
		code errorCode
		want string
	}{
		{codeNoError, "no error"},
		{codeFrameEncoding, "frame malformed"},
		{codeRefused, "refused"},
		{codeRefused + 1, "error 0xf"},
		{0xff, "error 0xff"},
		{codeTLSAlert + 42, "TLS alert 42"},
		{codeTLSAlert + 0x100, "error 0x200"},
		{codeApplication, "application error 0x1000"},
	} {
		if got := tt.code.String(); got != tt.want {
			t.Errorf("code %#x is %q, want %q", uint64(tt.code), got, tt.want)
		}
	}
	texts := make(map[string]bool)
	for code := range errorCode(codeRefused + 1) {
		texts[code.String()] = true
	}
	if len(texts) != codeRefused+1 {
		t.Errorf("%d texts for %d codes", len(texts), codeRefused+1)
	}
}
