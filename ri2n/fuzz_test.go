package ri2n

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// frameTargets names the fuzz target of each frame structure, and its types.
func frameTargets() map[string][]uint64 {
	return map[string][]uint64{
		"FuzzAckFrame":               {framePathAck, framePathAckECN},
		"FuzzResetStreamFrame":       {frameResetStream},
		"FuzzStopSendingFrame":       {frameStopSending},
		"FuzzCryptoFrame":            {frameCrypto},
		"FuzzStreamFrame":            {0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f},
		"FuzzMaxDataFrame":           {frameMaxData},
		"FuzzMaxStreamDataFrame":     {frameMaxStreamData},
		"FuzzMaxStreamsFrame":        {frameMaxStreamsBidi, frameMaxStreamsUni},
		"FuzzDataBlockedFrame":       {frameDataBlocked},
		"FuzzStreamDataBlockedFrame": {frameStreamDataBlocked},
		"FuzzStreamsBlockedFrame":    {frameStreamsBlockedBidi, frameStreamsBlockedUni},
		"FuzzPathChallengeFrame":     {framePathChallenge},
		"FuzzPathResponseFrame":      {framePathResponse},
		"FuzzCloseFrame":             {frameClose},
		"FuzzPathStatusFrame":        {framePathStatus},
		"FuzzPathAbandonFrame":       {framePathAbandon},
		"FuzzMaxPathsFrame":          {frameMaxPaths},
		"FuzzAddrFrame":              {frameAddrAdd, frameAddrRemove, frameObservedAddr},
		"FuzzAckFreqFrame":           {frameAckFreq},
		"FuzzDatagramFrame":          {frameDatagram, frameDatagramLen, frameDatagramNumbered},
	}
}

// fuzzFrame checks that what a target's parser accepts is what its append
// writes. An input of another type becomes one of the target's.
func fuzzFrame(f *testing.F) {
	types := frameTargets()[f.Name()]
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if !slices.Contains(types, uint64(b[0])) {
			b = bytes.Clone(b)
			b[0] = byte(types[int(b[0])%len(types)])
		}
		checkFrameIdentity(t, b)
	})
}

// checkFrameIdentity parses the frame at the front of b and returns the rest.
func checkFrameIdentity(t *testing.T, b []byte) (rest []byte, ok bool) {
	f, again, rest, err := parseFrame(b)
	if err != nil {
		return nil, false
	}
	if taken := b[:len(b)-len(rest)]; !bytes.Equal(again, taken) {
		t.Errorf("%x decodes to %+v, which encodes to %x", taken, f, again)
	}
	return rest, true
}

func FuzzAckFrame(f *testing.F)               { fuzzFrame(f) }
func FuzzResetStreamFrame(f *testing.F)       { fuzzFrame(f) }
func FuzzStopSendingFrame(f *testing.F)       { fuzzFrame(f) }
func FuzzCryptoFrame(f *testing.F)            { fuzzFrame(f) }
func FuzzStreamFrame(f *testing.F)            { fuzzFrame(f) }
func FuzzMaxDataFrame(f *testing.F)           { fuzzFrame(f) }
func FuzzMaxStreamDataFrame(f *testing.F)     { fuzzFrame(f) }
func FuzzMaxStreamsFrame(f *testing.F)        { fuzzFrame(f) }
func FuzzDataBlockedFrame(f *testing.F)       { fuzzFrame(f) }
func FuzzStreamDataBlockedFrame(f *testing.F) { fuzzFrame(f) }
func FuzzStreamsBlockedFrame(f *testing.F)    { fuzzFrame(f) }
func FuzzPathChallengeFrame(f *testing.F)     { fuzzFrame(f) }
func FuzzPathResponseFrame(f *testing.F)      { fuzzFrame(f) }
func FuzzCloseFrame(f *testing.F)             { fuzzFrame(f) }
func FuzzPathStatusFrame(f *testing.F)        { fuzzFrame(f) }
func FuzzPathAbandonFrame(f *testing.F)       { fuzzFrame(f) }
func FuzzMaxPathsFrame(f *testing.F)          { fuzzFrame(f) }
func FuzzAddrFrame(f *testing.F)              { fuzzFrame(f) }
func FuzzAckFreqFrame(f *testing.F)           { fuzzFrame(f) }
func FuzzDatagramFrame(f *testing.F)          { fuzzFrame(f) }

func FuzzVarint(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		v, rest, err := parseVarint(b)
		if err != nil {
			return
		}
		if again := append(appendVarint(nil, v), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %d, which encodes to %x", b, v, again)
		}
	})
}

func FuzzShortHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, err := parseShortHeader(b)
		if err != nil {
			return
		}
		if again := append(appendShortHeader(nil, h), payload...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, h, again)
		}
	})
}

// checkLongIdentity parses the packet at the front of b and returns its sealed
// part and the rest of the datagram. Identity holds up to mac1, which only the
// responder's key makes.
func checkLongIdentity(t *testing.T, b []byte) (sealed, rest []byte, ok bool) {
	h, headerLen, rest, err := parseLongHeader(b)
	if err != nil {
		return nil, nil, false
	}
	key := mac1Key(responderForTest())
	packet := b[:len(b)-len(rest)]
	right := checkMAC1(packet, h, &key)
	again := appendLongHeader(nil, h, &key)
	if h.typ.hasMAC1() {
		at := longPrefixLen + 2 + len(h.token)
		if bytes.Equal(again[at:at+mac1Len], h.mac1[:]) != right {
			t.Errorf("%x: checkMAC1 = %v", packet, right)
		}
		copy(again[at:], h.mac1[:])
	} else if right {
		t.Errorf("%x: mac1 found where there is none", packet)
	}
	if !bytes.Equal(again, packet[:headerLen]) {
		t.Errorf("%x decodes to %+v, which encodes to %x", packet[:headerLen], h, again)
	}
	typ, version, dcid, scid, ok := peekLong(b)
	if !ok || typ != h.typ || version != h.version || dcid != h.dcid || scid != h.scid {
		t.Errorf("%x: peekLong and parseLongHeader disagree", packet)
	}
	if h.typ != longRetry && headerLen-2+int(h.length) != len(packet) {
		t.Errorf("%x: length %d does not end the packet", packet, h.length)
	}
	return packet[headerLen:], rest, true
}

func FuzzLongHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) { checkLongIdentity(t, b) })
}

func FuzzVersionNegotiation(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseVersionNegotiation(b)
		if err != nil {
			return
		}
		if again := appendVersionNegotiation(nil, v); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, v, again)
		}
	})
}

// Unknown parameters may be dropped, known ones have one encoding.
func FuzzTransportParams(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseTransportParams(b)
		if err != nil {
			return
		}
		again := appendTransportParams(nil, p)
		if len(again) > len(b) || len(again) == len(b) && !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, p, again)
		}
		if q, err := parseTransportParams(again); err != nil || !reflect.DeepEqual(q, p) {
			t.Errorf("%x decodes to %+v and then to %+v, %v", b, p, q, err)
		}
	})
}

// No bytes but ours are a Retry token.
func FuzzRetryToken(f *testing.F) {
	now := time.Unix(1000, 0)
	addr := netip.MustParseAddrPort("192.0.2.1:443")
	tokens := newRetryTokens(rand.Reader)
	tokens.issue(now, addr, 1)
	f.Fuzz(func(t *testing.T, b []byte) {
		if odcid, err := tokens.open(now, addr, b); err == nil {
			t.Errorf("%x is a token for %#x", b, odcid)
		}
	})
}

// No bytes open under keys that the peer does not have, and what is sealed
// opens to what it was.
func FuzzPacketKeys(f *testing.F) {
	client, server := initialKeys(1)
	f.Fuzz(func(t *testing.T, b []byte) {
		headerLen := min(len(b), shortHeaderLen)
		if _, err := client.open(bytes.Clone(b), headerLen, 0, 0); err == nil {
			t.Errorf("%x opens", b)
		}
		sealed := server.seal(append(make([]byte, 0, len(b)+aeadOverhead), b...), headerLen, 3, 4)
		plain, err := server.open(sealed, headerLen, 3, 4)
		if err != nil || !bytes.Equal(plain, b[headerLen:]) || !bytes.Equal(sealed[:headerLen], b[:headerLen]) {
			t.Errorf("%x, sealed, opens to %x, %v", b, plain, err)
		}
	})
}

// FuzzDatagram takes a datagram apart as an endpoint does, with every payload
// read as if it had been opened.
func FuzzDatagram(f *testing.F) {
	frames := func(t *testing.T, payload []byte) {
		for ok := true; ok && len(payload) > 0; {
			payload, ok = checkFrameIdentity(t, payload)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || !isSessionPacket(b[0]) {
			return
		}
		if !isLongPacket(b[0]) {
			isStatelessReset(b, [resetTokenLen]byte{})
			if _, payload, err := parseShortHeader(b); err == nil {
				frames(t, payload)
			}
			return
		}
		parseVersionNegotiation(b)
		for len(b) > 0 {
			sealed, rest, ok := checkLongIdentity(t, b)
			if !ok {
				return
			}
			if len(sealed) > aeadOverhead {
				frames(t, sealed[:len(sealed)-aeadOverhead])
			}
			b = rest
		}
	})
}

// fuzzSeeds returns the inputs kept for each target of this file, by name.
func fuzzSeeds() map[string]map[string][]byte {
	seeds := make(map[string]map[string][]byte)
	add := func(target, name string, b []byte) {
		if seeds[target] == nil {
			seeds[target] = make(map[string][]byte)
		}
		seeds[target][name] = b
	}
	var all []byte
	for _, v := range frameVectors() {
		b := v.encode(nil)
		for target, types := range frameTargets() {
			if slices.Contains(types, uint64(b[0])) {
				add(target, v.name, b)
			}
		}
		if !v.bounded {
			all = append(all, b...)
		}
	}
	for _, v := range headerVectors() {
		b := v.encode(nil)
		switch {
		case !isLongPacket(b[0]):
			add("FuzzShortHeader", v.name, b)
		case strings.HasPrefix(v.name, "version"):
			add("FuzzVersionNegotiation", v.name, b)
		default:
			add("FuzzLongHeader", v.name, b)
		}
		add("FuzzDatagram", v.name, b)
	}
	for _, v := range transportParamVectors() {
		add("FuzzTransportParams", v.name, v.encode(nil))
	}
	for _, v := range []uint64{0, 64, 1 << 14, 1 << 30, maxVarint} {
		add("FuzzVarint", fmt.Sprintf("bytes_%d", varintLen(v)), appendVarint(nil, v))
	}
	add("FuzzVarint", "not_minimal", []byte{0x40, 0x01})
	add("FuzzRetryToken", "zeros", make([]byte, retryTokenLen))
	add("FuzzPacketKeys", "short", appendShortHeader(nil, shortHeader{dcid: 1}))
	add("FuzzPacketKeys", "all_frames", append(appendShortHeader(nil, shortHeader{dcid: 1}), all...))

	// Every frame in one short packet, and in two coalesced long ones.
	add("FuzzDatagram", "short_all_frames", append(appendShortHeader(nil, shortHeader{dcid: 1}), all...))
	key := mac1Key(responderForTest())
	initial := longHeader{typ: longInitial, version: version1, dcid: 1, scid: 2, length: uint16(sealedMin + len(all))}
	handshake := initial
	handshake.typ = longHandshake
	b := appendLongHeader(nil, initial, &key)
	b = append(append(b, all...), make([]byte, aeadOverhead)...)
	b = appendLongHeader(b, handshake, nil)
	b = append(append(b, all...), make([]byte, aeadOverhead)...)
	add("FuzzDatagram", "coalesced_all_frames", b)

	for name, frames := range sessionFrames() {
		add("FuzzAuthenticatedFrames", name, frames)
	}
	for name, parts := range endpointDatagrams() {
		add("FuzzEndpointDatagram", name, joinDatagrams(parts...))
	}
	return seeds
}

// Every fuzz target of the package keeps seeds, found inputs among them, in
// testdata/fuzz, where go test runs them. Without them a target tests nothing.
func TestFuzzSeeds(t *testing.T) {
	if *updateGolden {
		for target, inputs := range fuzzSeeds() {
			dir := filepath.Join("testdata", "fuzz", target)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, b := range inputs {
				text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	found := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range declared.FindAllSubmatch(source, -1) {
			found++
			seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", string(match[1])))
			if err != nil || len(seeds) == 0 {
				t.Errorf("%s in %s has no seed in testdata/fuzz/%s", match[1], file, match[1])
			}
		}
	}
	if want := len(fuzzSeeds()); found < want {
		t.Errorf("%d fuzz targets, want at least the %d with seeds", found, want)
	}
}
