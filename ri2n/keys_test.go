package ri2n

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	mathrand "math/rand/v2"
	"strings"
	"testing"
)

// A keyVector is a derivation or a sealed packet, inputs included, as lines of
// an annotated file.
type keyVector struct {
	name  string
	lines []keyLine
}

type keyLine struct {
	b    []byte
	note string
}

func keyVectorNames() (names []string) {
	for _, v := range keyVectors() {
		names = append(names, v.name)
	}
	return names
}

func suiteNames() map[uint16]string {
	return map[uint16]string{
		tls.TLS_AES_128_GCM_SHA256:       "aes128",
		tls.TLS_AES_256_GCM_SHA384:       "aes256",
		tls.TLS_CHACHA20_POLY1305_SHA256: "chacha20",
	}
}

// secretForTest returns 0, 1, 2 ... of the length that the suite's hash has.
func secretForTest(suite uint16) []byte {
	n := sha256.Size
	if suite == tls.TLS_AES_256_GCM_SHA384 {
		n = 48
	}
	secret := make([]byte, n)
	for i := range secret {
		secret[i] = byte(i)
	}
	return secret
}

func mustPacketKeys(suite uint16, secret []byte) *packetKeys {
	k, err := newPacketKeys(suite, secret)
	if err != nil {
		panic(err)
	}
	return k
}

func keyVectors() []keyVector {
	u32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

	var vs []keyVector
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		path, pn := pathID(3), packetNumber(0x1_0000_0002)
		secret := secretForTest(suite)
		s, err := packetSuiteOf(suite)
		if err != nil {
			panic(err)
		}
		key, err := expandLabel(s.hash, secret, "ri2n key", s.keyLen)
		if err != nil {
			panic(err)
		}
		k := mustPacketKeys(suite, secret)
		var nonce [12]byte
		k.putNonce(&nonce, path, pn)
		packet := appendShortHeader(make([]byte, 0, 100), shortHeader{dcid: 0x0102030405060708, pn: uint32(pn)})
		packet = appendPingFrame(packet)
		packet = append(appendStreamHeader(packet, 0, 0, 5, false, false), "hello"...)
		plain := bytes.Clone(packet[shortHeaderLen:])
		sealed := k.seal(packet, shortHeaderLen, path, pn)
		end := len(sealed) - aeadOverhead
		vs = append(vs, keyVector{"keys_" + suiteNames()[suite], []keyLine{
			{binary.BigEndian.AppendUint16(nil, suite), "TLS 1.3 suite"},
			{secret, "traffic secret"},
			{key, "key"},
			{k.iv[:], "IV"},
			{u32(uint32(path)), "path ID"},
			{u64(uint64(pn)), "packet number"},
			{nonce[:], "nonce"},
			{plain, "frames: PING, STREAM"},
			{sealed[:shortHeaderLen], "header, which is the AAD"},
			{sealed[shortHeaderLen:end], "sealed frames"},
			{sealed[end:], "tag"},
			{nextSecret(suite, secret), "traffic secret after a key update"},
		}})
	}

	const dcid = connID(0x8394c8f03e515708)
	responder := responderForTest()
	macKey := mac1Key(responder)
	salt := initialSalt()
	client, server := initialKeys(dcid)
	initial := func(k *packetKeys, dcid, scid connID, text string) []keyLine {
		frames := appendCryptoFrame(nil, cryptoFrame{0, []byte(text)})
		b := appendLongHeader(make([]byte, 0, 200), longHeader{
			typ: longInitial, version: version1, dcid: dcid, scid: scid,
			length: uint16(sealedMin + len(frames)), pn: 1,
		}, &macKey)
		headerLen := len(b)
		b = k.seal(append(b, frames...), headerLen, 0, 1)
		at := longPrefixLen + 2
		return []keyLine{
			{frames, "frames: CRYPTO"},
			{b[:at], "header up to mac1"},
			{b[at : at+mac1Len], "mac1"},
			{b[at+mac1Len : headerLen], "length, packet number 1"},
			{b[headerLen:], "sealed frames and tag"},
		}
	}
	vs = append(vs,
		keyVector{"keys_initial_client", append([]keyLine{
			{responder[:], "responder's peer ID"},
			{macKey[:], "mac1 key"},
			{salt[:], "salt"},
			{u64(uint64(dcid)), "the client's first DCID"},
			{client.iv[:], "client's IV"},
		}, initial(client, dcid, 0xf067a5502a4262b5, "client hello")...)},
		keyVector{"keys_initial_server", append([]keyLine{
			{u64(uint64(dcid)), "the client's first DCID"},
			{server.iv[:], "server's IV"},
		}, initial(server, 0xf067a5502a4262b5, 0x1122334455667788, "server hello")...)},
	)

	cidKey := [16]byte(secretForTest(tls.TLS_AES_128_GCM_SHA256))
	cids := newCIDDeriver(cidKey)
	vs = append(vs, keyVector{"conn_ids", []keyLine{
		{cidKey[:], "cidKey"},
		{u64(uint64(cids.cid(0, 0))), "path 0, seq 0"},
		{u64(uint64(cids.cid(0, 1))), "path 0, seq 1"},
		{u64(uint64(cids.cid(1, 0))), "path 1, seq 0"},
		{u64(uint64(cids.cid(1<<32-1, 1<<32-1))), "path 2^32-1, seq 2^32-1"},
	}})

	resetKey := [32]byte(secretForTest(tls.TLS_AES_128_GCM_SHA256))
	token := statelessResetToken(&resetKey, 0x0102030405060708)
	reset := appendStatelessReset(nil, bytes.NewReader(bytes.Repeat([]byte{0xbb}, 64)), token, 40)
	vs = append(vs, keyVector{"stateless_reset", []keyLine{
		{resetKey[:], "the endpoint's key"},
		{u64(0x0102030405060708), "connection ID"},
		{token[:], "token"},
		{reset[:1], "first byte of the datagram, as of a short packet"},
		{reset[1 : len(reset)-resetTokenLen], "random bytes"},
		{reset[len(reset)-resetTokenLen:], "token"},
	}})
	return vs
}

func TestKeyVectors(t *testing.T) {
	for _, v := range keyVectors() {
		t.Run(v.name, func(t *testing.T) {
			var text strings.Builder
			for _, line := range v.lines {
				text.WriteString(hex.EncodeToString(line.b) + " # " + line.note + "\n")
			}
			writeGolden(t, v.name, text.String())
			if _, want := readHex(t, goldenPath(v.name)); text.String() != want {
				t.Errorf("got\n%s\nwant\n%s", text.String(), want)
			}
		})
	}
}

// RFC 9001, appendix A.1, derives with the same functions and other labels.
func TestExpandLabel(t *testing.T) {
	fromHex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	initial, err := hkdf.Extract(sha256.New, fromHex("8394c8f03e515708"), fromHex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"))
	if err != nil {
		t.Fatal(err)
	}
	client := fromHex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
	for _, tt := range []struct {
		label  string
		secret []byte
		want   string
	}{
		{"client in", initial, "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea"},
		{"quic key", client, "1f369613dd76d5467730efcbe3b1a22d"},
		{"quic iv", client, "fa044b2f42a3fd3b46fb255c"},
	} {
		got, err := expandLabel(sha256.New, tt.secret, tt.label, len(tt.want)/2)
		if err != nil || hex.EncodeToString(got) != tt.want {
			t.Errorf("%s = %x, %v; want %s", tt.label, got, err, tt.want)
		}
	}
}

// A sealed packet is what docs/wire-format.md, section 5.1, says, computed here
// from HMAC and AES alone.
func TestSealByTheBook(t *testing.T) {
	secret := secretForTest(tls.TLS_AES_128_GCM_SHA256)
	derive := func(label string, n int) []byte {
		info := append([]byte{0, byte(n), byte(6 + len(label))}, "tls13 "+label...)
		m := hmac.New(sha256.New, secret)
		m.Write(append(info, 0, 1)) // empty context; first block of HKDF-Expand
		return m.Sum(nil)[:n]
	}
	block, err := aes.NewCipher(derive("ri2n key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := derive("ri2n iv", 12)
	for i, x := range []byte{0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 6} {
		nonce[i] ^= x
	}
	want := aead.Seal([]byte("header"), nonce, []byte("frames"), []byte("header"))

	k := mustPacketKeys(tls.TLS_AES_128_GCM_SHA256, secret)
	packet := append(make([]byte, 0, 64), "headerframes"...)
	got := k.seal(packet, 6, 9, 5<<32|6)
	if !bytes.Equal(got, want) {
		t.Errorf("sealed %x, want %x", got, want)
	}
	if &got[0] != &packet[0] {
		t.Error("seal has moved the packet")
	}
}

func TestSealAndOpen(t *testing.T) {
	for suite, name := range suiteNames() {
		t.Run(name, func(t *testing.T) {
			k := mustPacketKeys(suite, secretForTest(suite))
			other := mustPacketKeys(suite, nextSecret(suite, secretForTest(suite)))
			sealed := func() []byte {
				return k.seal(append(make([]byte, 0, 64), "headerframes"...), 6, 2, 3)
			}
			plain, err := k.open(sealed(), 6, 2, 3)
			if err != nil || string(plain) != "frames" {
				t.Fatalf("opens to %q, %v", plain, err)
			}
			same := func(b []byte) []byte { return b }
			for _, tt := range []struct {
				name      string
				k         *packetKeys
				headerLen int
				path      pathID
				pn        packetNumber
				change    func(b []byte) []byte
			}{
				{"other keys", other, 6, 2, 3, same},
				{"other path", k, 6, 1, 3, same},
				{"other packet number", k, 6, 2, 4, same},
				{"path and number exchanged", k, 6, 3, 2, same},
				{"shorter header", k, 5, 2, 3, same},
				{"byte missing", k, 6, 2, 3, func(b []byte) []byte { return b[:len(b)-1] }},
				{"byte more", k, 6, 2, 3, func(b []byte) []byte { return append(b, 0) }},
			} {
				b := tt.change(sealed())
				tail := bytes.Clone(b[len(b)-aeadOverhead:])
				if _, err := tt.k.open(b, tt.headerLen, tt.path, tt.pn); err != errOpen {
					t.Errorf("%s: %v, want %v", tt.name, err, errOpen)
				}
				// A stateless reset is looked for there afterwards.
				if got := b[len(b)-aeadOverhead:]; !bytes.Equal(got, tail) {
					t.Errorf("%s: the tag is now %x, was %x", tt.name, got, tail)
				}
			}
			for i := range sealed() {
				b := sealed()
				b[i] ^= 1
				if _, err := k.open(b, 6, 2, 3); err != errOpen {
					t.Errorf("byte %d changed: %v, want %v", i, err, errOpen)
				}
			}
			for n := range 6 + aeadOverhead {
				if _, err := k.open(sealed()[:n], 6, 2, 3); err != errTruncated {
					t.Errorf("%d bytes: %v, want %v", n, err, errTruncated)
				}
			}
		})
	}
}

func TestNewPacketKeysRefuses(t *testing.T) {
	if _, err := newPacketKeys(tls.TLS_RSA_WITH_AES_128_GCM_SHA256, make([]byte, 32)); err == nil {
		t.Error("a suite of TLS 1.2 is accepted")
	}
}

func TestInitialKeys(t *testing.T) {
	client, server := initialKeys(1)
	again, _ := initialKeys(1)
	other, _ := initialKeys(2)
	seal := func(k *packetKeys) string {
		return string(k.seal(append(make([]byte, 0, 64), "headerframes"...), 6, 0, 0))
	}
	if seal(client) != seal(again) {
		t.Error("the same connection ID gives other keys")
	}
	if seal(client) == seal(server) {
		t.Error("client and server share keys")
	}
	if seal(client) == seal(other) {
		t.Error("two connection IDs share keys")
	}
}

// No two packets under one key share a nonce: over paths, over numbers, and
// where the two could be taken for each other.
func TestNonceIsUnique(t *testing.T) {
	k := mustPacketKeys(tls.TLS_AES_128_GCM_SHA256, secretForTest(tls.TLS_AES_128_GCM_SHA256))
	type packet struct {
		path pathID
		pn   packetNumber
	}
	seen := make(map[[12]byte]packet)
	check := func(p packet) {
		var nonce [12]byte
		k.putNonce(&nonce, p.path, p.pn)
		if q, ok := seen[nonce]; ok && q != p {
			t.Fatalf("%+v and %+v share nonce %x", p, q, nonce)
		}
		seen[nonce] = p
	}
	for path := range pathID(16) {
		for pn := range packetNumber(1000) {
			check(packet{path, pn})
			check(packet{path, pn << 32})
			check(packet{path << 28, pn | 1<<61})
		}
	}
	rng := mathrand.New(mathrand.NewPCG(3, 4))
	for range 50000 {
		check(packet{pathID(rng.Uint32()), packetNumber(rng.Uint64N(maxVarint + 1))})
	}
	// The next phase has another IV, so the same packet another nonce.
	next := mustPacketKeys(tls.TLS_AES_128_GCM_SHA256, nextSecret(tls.TLS_AES_128_GCM_SHA256, secretForTest(tls.TLS_AES_128_GCM_SHA256)))
	if next.iv == k.iv {
		t.Error("a key update keeps the IV")
	}
}

func TestConcurrentKeys(t *testing.T) {
	k := mustPacketKeys(tls.TLS_AES_128_GCM_SHA256, secretForTest(tls.TLS_AES_128_GCM_SHA256))
	done := make(chan error, 4)
	for path := range pathID(cap(done)) {
		go func() {
			buf := make([]byte, 0, 1500)
			for pn := range packetNumber(500) {
				sealed := k.seal(append(buf, "headerframes"...), 6, path, pn)
				if _, err := k.open(sealed, 6, path, pn); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for suite, name := range suiteNames() {
		b.Run("suite="+name+"/size=1420", func(b *testing.B) {
			k := mustPacketKeys(suite, secretForTest(suite))
			buf := make([]byte, 1420, 1420+aeadOverhead)
			rand.Read(buf)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			pn := packetNumber(0)
			for b.Loop() {
				k.seal(buf, shortHeaderLen, 0, pn)
				pn++
			}
		})
	}
}
