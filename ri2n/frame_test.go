package ri2n

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// parseFrame decodes the frame at the front of b as a session does, and encodes
// it again. It is the whole dispatch: every type has its case.
func parseFrame(b []byte) (frame any, again, rest []byte, err error) {
	typ, rest, err := parseVarint(b)
	if err != nil {
		return nil, nil, nil, err
	}
	if isStreamFrame(typ) {
		f, rest, err := parseStreamFrame(rest, typ)
		if err != nil {
			return nil, nil, nil, err
		}
		again := appendStreamHeader(nil, f.id, f.offset, len(f.data), typ&streamBitLEN != 0, f.fin)
		return f, append(again, f.data...), rest, nil
	}
	switch typ {
	case framePadding:
		after := skipPadding(rest)
		n := 1 + len(rest) - len(after)
		return n, appendPadding(nil, n), after, nil
	case framePing:
		return typ, appendPingFrame(nil), rest, nil
	case frameHandshakeDone:
		return typ, appendHandshakeDoneFrame(nil), rest, nil
	case framePathAck, framePathAckECN:
		f, rest, err := parseAckFrame(rest, typ, nil)
		return encodeAgain(f, rest, err, appendAckFrame)
	case frameResetStream:
		f, rest, err := parseResetStreamFrame(rest)
		return encodeAgain(f, rest, err, appendResetStreamFrame)
	case frameStopSending:
		f, rest, err := parseStopSendingFrame(rest)
		return encodeAgain(f, rest, err, appendStopSendingFrame)
	case frameCrypto:
		f, rest, err := parseCryptoFrame(rest)
		return encodeAgain(f, rest, err, appendCryptoFrame)
	case frameMaxData:
		f, rest, err := parseMaxDataFrame(rest)
		return encodeAgain(f, rest, err, appendMaxDataFrame)
	case frameMaxStreamData:
		f, rest, err := parseMaxStreamDataFrame(rest)
		return encodeAgain(f, rest, err, appendMaxStreamDataFrame)
	case frameMaxStreamsBidi, frameMaxStreamsUni:
		f, rest, err := parseMaxStreamsFrame(rest, typ)
		return encodeAgain(f, rest, err, appendMaxStreamsFrame)
	case frameDataBlocked:
		f, rest, err := parseDataBlockedFrame(rest)
		return encodeAgain(f, rest, err, appendDataBlockedFrame)
	case frameStreamDataBlocked:
		f, rest, err := parseStreamDataBlockedFrame(rest)
		return encodeAgain(f, rest, err, appendStreamDataBlockedFrame)
	case frameStreamsBlockedBidi, frameStreamsBlockedUni:
		f, rest, err := parseStreamsBlockedFrame(rest, typ)
		return encodeAgain(f, rest, err, appendStreamsBlockedFrame)
	case framePathChallenge:
		f, rest, err := parsePathChallengeFrame(rest)
		return encodeAgain(f, rest, err, appendPathChallengeFrame)
	case framePathResponse:
		f, rest, err := parsePathResponseFrame(rest)
		return encodeAgain(f, rest, err, appendPathResponseFrame)
	case frameClose:
		f, rest, err := parseCloseFrame(rest)
		return encodeAgain(f, rest, err, appendCloseFrame)
	case framePathStatus:
		f, rest, err := parsePathStatusFrame(rest)
		return encodeAgain(f, rest, err, appendPathStatusFrame)
	case framePathAbandon:
		f, rest, err := parsePathAbandonFrame(rest)
		return encodeAgain(f, rest, err, appendPathAbandonFrame)
	case frameMaxPaths:
		f, rest, err := parseMaxPathsFrame(rest)
		return encodeAgain(f, rest, err, appendMaxPathsFrame)
	case frameAddrAdd, frameAddrRemove, frameObservedAddr:
		f, rest, err := parseAddrFrame(rest, typ)
		return encodeAgain(f, rest, err, appendAddrFrame)
	case frameAckFreq:
		f, rest, err := parseAckFreqFrame(rest)
		return encodeAgain(f, rest, err, appendAckFreqFrame)
	case frameDatagram, frameDatagramLen:
		f, rest, err := parseDatagramFrame(rest, typ)
		return encodeAgain(f, rest, err, appendDatagramFrame)
	case frameDatagramNumbered:
		f, rest, err := parseDatagramNumberedFrame(rest)
		return encodeAgain(f, rest, err, appendDatagramNumberedFrame)
	}
	return nil, nil, nil, errMalformed
}

func encodeAgain[F any](f F, rest []byte, err error, appendFrame func([]byte, F) []byte) (any, []byte, []byte, error) {
	if err != nil {
		return nil, nil, nil, err
	}
	return f, appendFrame(nil, f), rest, nil
}

func parseFrameVector(b []byte) (any, []byte, int, error) {
	f, again, rest, err := parseFrame(b)
	return f, again, len(b) - len(rest), err
}

func frameVectors() []vector {
	var token [resetTokenLen]byte
	for i := range token {
		token[i] = 0xd0 + byte(i)
	}
	challenge := [8]byte{0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7}
	v4 := netip.MustParseAddrPort("192.0.2.33:4321")
	v6 := netip.MustParseAddrPort("[2001:db8::21]:4321")
	stream := func(name string, fields []field, f streamFrame, hasLen bool) vector {
		v := vector{
			name:   name,
			fields: fields,
			encode: func(b []byte) []byte {
				return append(appendStreamHeader(b, f.id, f.offset, len(f.data), hasLen, f.fin), f.data...)
			},
			parse:   parseFrameVector,
			want:    f,
			bounded: !hasLen,
		}
		if !hasLen {
			from := streamHeaderLen(f.id, f.offset, len(f.data), false)
			v.validPrefix = func(n int) bool { return n >= from }
		}
		return v
	}
	ackRanges := []ackRange{{95, 100}, {90, 93}, {0, 0}}
	vs := []vector{
		{
			name: "padding", fields: []field{{11, "PADDING, 11 times"}},
			encode:      func(b []byte) []byte { return appendPadding(b, 11) },
			parse:       parseFrameVector,
			want:        11,
			validPrefix: func(n int) bool { return n > 0 },
		},
		{
			name: "ping", fields: []field{{1, "PING"}},
			encode: appendPingFrame, parse: parseFrameVector, want: uint64(framePing),
		},
		{
			name: "handshake_done", fields: []field{{1, "HANDSHAKE_DONE"}},
			encode: appendHandshakeDoneFrame, parse: parseFrameVector, want: uint64(frameHandshakeDone),
		},
		frameVector("path_ack", []field{
			{1, "PATH_ACK"}, {1, "path ID 2"}, {2, "largest 100"}, {2, "delay 3200 us"}, {1, "3 ranges"},
			{1, "first range: 100 to 95"}, {1, "gap: 94 is missing"}, {1, "range: 93 to 90"},
			{2, "gap: 89 to 1 are missing"}, {1, "range: 0"},
		}, ackFrame{path: 2, delay: 3200 * time.Microsecond, ranges: ackRanges}, appendAckFrame),
		frameVector("path_ack_ecn", []field{
			{1, "PATH_ACK_ECN"}, {1, "path ID 0"}, {1, "largest 5"}, {1, "delay 0"}, {1, "1 range"},
			{1, "first range: 5"}, {1, "ECT(0) 1"}, {1, "ECT(1) 2"}, {4, "CE 70000"},
		}, ackFrame{ranges: []ackRange{{5, 5}}, hasECN: true, ect0: 1, ect1: 2, ce: 70000}, appendAckFrame),
		frameVector("reset_stream", []field{{1, "RESET_STREAM"}, {1, "stream 4"}, {4, "code 0x4000"}, {4, "final size 100000"}},
			resetStreamFrame{id: 4, code: 1 << 14, finalSize: 100000}, appendResetStreamFrame),
		frameVector("stop_sending", []field{{1, "STOP_SENDING"}, {1, "stream 4"}, {2, "code 0x1000"}},
			stopSendingFrame{id: 4, code: codeApplication}, appendStopSendingFrame),
		frameVector("crypto", []field{{1, "CRYPTO"}, {2, "offset 1000"}, {1, "length 3"}, {3, "data"}},
			cryptoFrame{offset: 1000, data: []byte("abc")}, appendCryptoFrame),
		stream("stream_to_end", []field{{1, "STREAM"}, {1, "stream 0"}, {5, "data to the end of the packet"}},
			streamFrame{id: 0, data: []byte("hello")}, false),
		stream("stream_fin", []field{{1, "STREAM, FIN"}, {1, "stream 3"}, {5, "data to the end of the packet"}},
			streamFrame{id: 3, data: []byte("hello"), fin: true}, false),
		stream("stream_len", []field{{1, "STREAM, LEN"}, {1, "stream 0"}, {1, "length 5"}, {5, "data"}},
			streamFrame{id: 0, data: []byte("hello")}, true),
		stream("stream_off_len_fin", []field{{1, "STREAM, OFF, LEN, FIN"}, {2, "stream 64"}, {8, "offset 2^40"}, {1, "length 0"}},
			streamFrame{id: 64, offset: 1 << 40, data: []byte{}, fin: true}, true),
		frameVector("max_data", []field{{1, "MAX_DATA"}, {4, "limit 1048576"}}, maxDataFrame{1 << 20}, appendMaxDataFrame),
		frameVector("max_stream_data", []field{{1, "MAX_STREAM_DATA"}, {1, "stream 8"}, {4, "limit 524288"}},
			maxStreamDataFrame{id: 8, limit: 1 << 19}, appendMaxStreamDataFrame),
		frameVector("max_streams_bidi", []field{{1, "MAX_STREAMS_BIDI"}, {2, "limit 100"}}, maxStreamsFrame{limit: 100}, appendMaxStreamsFrame),
		frameVector("max_streams_uni", []field{{1, "MAX_STREAMS_UNI"}, {1, "limit 10"}}, maxStreamsFrame{limit: 10, uni: true}, appendMaxStreamsFrame),
		frameVector("data_blocked", []field{{1, "DATA_BLOCKED"}, {4, "limit 1048576"}}, dataBlockedFrame{1 << 20}, appendDataBlockedFrame),
		frameVector("stream_data_blocked", []field{{1, "STREAM_DATA_BLOCKED"}, {1, "stream 8"}, {4, "limit 524288"}},
			streamDataBlockedFrame{id: 8, limit: 1 << 19}, appendStreamDataBlockedFrame),
		frameVector("streams_blocked_bidi", []field{{1, "STREAMS_BLOCKED_BIDI"}, {2, "limit 100"}}, streamsBlockedFrame{limit: 100}, appendStreamsBlockedFrame),
		frameVector("streams_blocked_uni", []field{{1, "STREAMS_BLOCKED_UNI"}, {1, "limit 10"}}, streamsBlockedFrame{limit: 10, uni: true}, appendStreamsBlockedFrame),
		frameVector("path_challenge", []field{{1, "PATH_CHALLENGE"}, {8, "data"}}, pathChallengeFrame{challenge}, appendPathChallengeFrame),
		frameVector("path_response", []field{{1, "PATH_RESPONSE"}, {8, "data"}}, pathResponseFrame{challenge}, appendPathResponseFrame),
		frameVector("close", []field{{1, "CLOSE"}, {1, "code 8, protocol violation"}, {1, "reason length 4"}, {4, "reason"}},
			closeFrame{code: codeProtocolViolation, reason: "late"}, appendCloseFrame),
		frameVector("path_status", []field{{1, "PATH_STATUS"}, {1, "path ID 3"}, {1, "sequence 9"}, {1, "status: suspect"}, {16, "reset token"}},
			pathStatusFrame{path: 3, seq: 9, status: pathStatusSuspect, resetToken: token}, appendPathStatusFrame),
		frameVector("path_abandon", []field{{1, "PATH_ABANDON"}, {4, "path ID 100000"}, {1, "code 0, no error"}},
			pathAbandonFrame{path: 100000}, appendPathAbandonFrame),
		frameVector("max_paths", []field{{1, "MAX_PATHS"}, {1, "limit 15"}}, maxPathsFrame{15}, appendMaxPathsFrame),
		frameVector("addr_add", []field{{1, "ADDR_ADD"}, {1, "family: IPv4"}, {4, "192.0.2.33"}, {2, "port 4321"}},
			addrFrame{frameAddrAdd, v4}, appendAddrFrame),
		frameVector("addr_remove", []field{{1, "ADDR_REMOVE"}, {1, "family: IPv6"}, {16, "2001:db8::21"}, {2, "port 4321"}},
			addrFrame{frameAddrRemove, v6}, appendAddrFrame),
		frameVector("observed_addr", []field{{1, "OBSERVED_ADDR"}, {1, "family: IPv4"}, {4, "192.0.2.33"}, {2, "port 4321"}},
			addrFrame{frameObservedAddr, v4}, appendAddrFrame),
		frameVector("ack_freq", []field{{1, "ACK_FREQ"}, {1, "threshold 32"}, {2, "delay 5000 us"}, {1, "reorder 3"}},
			ackFreqFrame{threshold: 32, delay: 5 * time.Millisecond, reorder: 3}, appendAckFreqFrame),
		frameVector("datagram_len", []field{{1, "DATAGRAM_LEN"}, {1, "length 4"}, {4, "data"}},
			datagramFrame{data: []byte("ping")}, appendDatagramFrame),
		frameVector("datagram_numbered", []field{{1, "DATAGRAM_NUMBERED"}, {1, "number 7"}, {1, "length 4"}, {4, "data"}},
			datagramNumberedFrame{number: 7, data: []byte("ping")}, appendDatagramNumberedFrame),
	}
	toEnd := frameVector("datagram_to_end", []field{{1, "DATAGRAM"}, {4, "data to the end of the packet"}},
		datagramFrame{data: []byte("ping"), toEnd: true}, appendDatagramFrame)
	toEnd.bounded = true
	toEnd.validPrefix = func(n int) bool { return n > 0 }
	return append(vs, toEnd)
}

func frameVector[F any](name string, fields []field, f F, appendFrame func([]byte, F) []byte) vector {
	return vector{
		name:   name,
		fields: fields,
		encode: func(b []byte) []byte { return appendFrame(b, f) },
		parse:  parseFrameVector,
		want:   f,
	}
}

func TestFramesRefused(t *testing.T) {
	huge := appendVarint(nil, maxVarint)
	frame := func(pieces ...[]byte) []byte { return bytes.Join(pieces, nil) }
	v := func(vs ...uint64) (b []byte) {
		for _, v := range vs {
			b = appendVarint(b, v)
		}
		return b
	}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"unknown type", v(0x18)},
		{"another unknown type", v(0x23)},
		{"type written too long", []byte{0x40, framePing}},
		{"ack without ranges", v(framePathAck, 0, 5, 0, 0)},
		{"ack with 33 ranges", frame(v(framePathAck, 0, 100, 0, 33, 0), make([]byte, 64))},
		{"ack range below zero", v(framePathAck, 0, 5, 0, 1, 6)},
		{"ack gap below zero", v(framePathAck, 0, 5, 0, 2, 0, 4, 0)},
		{"ack range after a gap below zero", v(framePathAck, 0, 5, 0, 2, 0, 0, 4)},
		{"ack of path 2^32", v(framePathAck, 1<<32, 5, 0, 1, 0)},
		{"ack delay above 32 bits", v(framePathAck, 0, 5, 1<<32, 1, 0)},
		{"stream with offset zero written", v(frameStream|streamBitOFF, 0, 0)},
		{"stream beyond the last offset", frame(v(frameStream|streamBitOFF|streamBitLEN, 0), huge, v(1), []byte("x"))},
		{"stream to the end beyond the last offset", frame(v(frameStream|streamBitOFF, 0), huge, []byte("x"))},
		{"stream longer than the packet", frame(v(frameStream|streamBitLEN, 0), huge, []byte("x"))},
		{"crypto beyond the last offset", frame(v(frameCrypto), huge, v(1), []byte("x"))},
		{"crypto longer than the packet", v(frameCrypto, 0, 1)},
		{"more streams than there are IDs", v(frameMaxStreamsBidi, maxStreamCount+1)},
		{"more blocked streams than there are IDs", v(frameStreamsBlockedUni, maxStreamCount+1)},
		{"long reason", frame(v(frameClose, 0, maxCloseReason+1), make([]byte, maxCloseReason+1))},
		{"unknown status", frame(v(framePathStatus, 0, 0, 3), make([]byte, resetTokenLen))},
		{"status of path 2^32", frame(v(framePathStatus, 1<<32, 0, 0), make([]byte, resetTokenLen))},
		{"abandon of path 2^32", v(framePathAbandon, 1<<32, 0)},
		{"path limit 2^32", v(frameMaxPaths, 1<<32)},
		{"address family 5", frame(v(frameAddrAdd, 5), make([]byte, 18))},
		{"IPv4-mapped IPv6", frame(v(frameAddrAdd, 6), make([]byte, 10), []byte{0xff, 0xff, 127, 0, 0, 1, 0, 80})},
		{"ack frequency delay above 32 bits", v(frameAckFreq, 1, 1<<32, 1)},
	} {
		if f, _, _, err := parseFrame(tt.b); err == nil {
			t.Errorf("%s: %x is accepted as %+v", tt.name, tt.b, f)
		}
	}
}

// The limits themselves are still accepted.
func TestFramesAtTheirLimits(t *testing.T) {
	var ranges []ackRange
	for i := range packetNumber(maxAckRanges) {
		ranges = append(ranges, ackRange{maxVarint - 2*i, maxVarint - 2*i})
	}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"32 ack ranges at the last packet number", appendAckFrame(nil, ackFrame{path: 1<<32 - 1, delay: 365 * 24 * time.Hour, ranges: ranges})},
		{"all packet numbers", appendAckFrame(nil, ackFrame{ranges: []ackRange{{0, maxVarint}}})},
		{"stream to the last offset", append(appendStreamHeader(nil, maxVarint, maxVarint-1, 1, true, true), 'x')},
		{"crypto to the last offset", appendCryptoFrame(nil, cryptoFrame{maxVarint - 1, []byte("x")})},
		{"all streams", appendMaxStreamsFrame(nil, maxStreamsFrame{limit: maxStreamCount})},
		{"longest reason", appendCloseFrame(nil, closeFrame{maxVarint, strings.Repeat("r", maxCloseReason)})},
		{"last path", appendMaxPathsFrame(nil, maxPathsFrame{1<<32 - 1})},
		{"empty datagram", appendDatagramFrame(nil, datagramFrame{})},
		{"longest delay", appendAckFreqFrame(nil, ackFreqFrame{maxVarint, 365 * 24 * time.Hour, maxVarint})},
	} {
		_, again, rest, err := parseFrame(tt.b)
		if err != nil || !bytes.Equal(again, tt.b) || len(rest) != 0 {
			t.Errorf("%s: %x encodes again to %x, rest %x, %v", tt.name, tt.b, again, rest, err)
		}
	}
}

func TestAckFrameReusesScratch(t *testing.T) {
	b := appendAckFrame(nil, ackFrame{ranges: []ackRange{{8, 9}, {1, 2}}})
	scratch := make([]ackRange, 5, maxAckRanges)
	f, _, err := parseAckFrame(b[1:], framePathAck, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.ranges) != 2 || &f.ranges[0] != &scratch[0] {
		t.Errorf("ranges = %v, not stored in scratch", f.ranges)
	}
}

func TestAppendAckFramePanics(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ranges []ackRange
	}{
		{"no range", nil},
		{"33 ranges", make([]ackRange, maxAckRanges+1)},
		{"ascending", []ackRange{{1, 2}, {5, 6}}},
		{"touching", []ackRange{{5, 6}, {3, 4}}},
		{"upside down", []ackRange{{6, 5}}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", tt.name)
				}
			}()
			appendAckFrame(nil, ackFrame{ranges: tt.ranges})
		}()
	}
}

// A negative or overlong duration is sent as the nearest one there is.
func TestDurationsAreCut(t *testing.T) {
	for _, tt := range []struct{ give, want time.Duration }{
		{-time.Second, 0},
		{7 * time.Microsecond, 0},
		{15 * time.Microsecond, 8 * time.Microsecond},
		{1 << 62, maxDurationUnits * ackDelayUnit},
	} {
		b := appendDuration(nil, tt.give, ackDelayUnit)
		got, _, err := parseDuration(b, ackDelayUnit)
		if err != nil || got != tt.want {
			t.Errorf("%v arrives as %v, %v; want %v", tt.give, got, err, tt.want)
		}
	}
}

func TestCloseReasonIsCutBetweenCharacters(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		want         int
	}{
		{"fits", strings.Repeat("r", 256), 256},
		{"one byte too long", strings.Repeat("r", 257), 256},
		{"a character across the limit", strings.Repeat("r", 255) + "\u00e9", 255},
		{"a long character across the limit", strings.Repeat("r", 253) + "\U0001f310", 253},
		{"not text at all", strings.Repeat("\x80", 300), 252},
	} {
		f, _, err := parseCloseFrame(appendCloseFrame(nil, closeFrame{1, tt.reason})[1:])
		if err != nil || len(f.reason) != tt.want || !strings.HasPrefix(tt.reason, f.reason) {
			t.Errorf("%s: %d bytes arrive, %v; want %d", tt.name, len(f.reason), err, tt.want)
		}
	}
}

func TestAddrFrameIsNormalised(t *testing.T) {
	for _, tt := range []struct{ give, want string }{
		{"[::ffff:192.0.2.1]:80", "192.0.2.1:80"},
		{"[fe80::1%eth0]:80", "[fe80::1]:80"},
	} {
		b := appendAddrFrame(nil, addrFrame{frameAddrAdd, netip.MustParseAddrPort(tt.give)})
		f, _, err := parseAddrFrame(b[1:], frameAddrAdd)
		if err != nil || f.addr.String() != tt.want {
			t.Errorf("%s arrives as %v, %v; want %s", tt.give, f.addr, err, tt.want)
		}
	}
}

func TestHeaderLengths(t *testing.T) {
	for _, id := range []uint64{0, 63, 64, 1 << 20, maxVarint} {
		for _, offset := range []uint64{0, 1, 1 << 14, 1 << 40} {
			for _, n := range []int{0, 63, 64, 1400, 70000} {
				for _, hasLen := range []bool{false, true} {
					if got, want := streamHeaderLen(id, offset, n, hasLen), len(appendStreamHeader(nil, id, offset, n, hasLen, true)); got != want {
						t.Errorf("streamHeaderLen(%d, %d, %d, %v) = %d, want %d", id, offset, n, hasLen, got, want)
					}
					if got, want := datagramHeaderLen(n, !hasLen), len(appendDatagramFrame(nil, datagramFrame{make([]byte, n), !hasLen}))-n; got != want {
						t.Errorf("datagramHeaderLen(%d, %v) = %d, want %d", n, !hasLen, got, want)
					}
				}
				if got, want := cryptoHeaderLen(offset, n), len(appendCryptoFrame(nil, cryptoFrame{offset, make([]byte, n)}))-n; got != want {
					t.Errorf("cryptoHeaderLen(%d, %d) = %d, want %d", offset, n, got, want)
				}
			}
		}
	}
}

func TestSkipPadding(t *testing.T) {
	for n := range 40 {
		b := append(appendPadding(nil, n), framePing, 0, 0)
		if got := skipPadding(b); len(got) != 3 || got[0] != framePing {
			t.Errorf("behind %d bytes of padding: %x", n, got)
		}
		if got := skipPadding(b[:n]); len(got) != 0 {
			t.Errorf("%d bytes of padding leave %x", n, got)
		}
	}
}

// docs/wire-format.md, section 4: which frames elicit an acknowledgement, and
// which are allowed in the handshake.
func TestFrameKinds(t *testing.T) {
	quiet := map[uint64]bool{framePadding: true, framePathAck: true, framePathAckECN: true, frameClose: true}
	handshake := map[uint64]bool{framePadding: true, framePing: true, framePathAck: true, frameCrypto: true, frameClose: true}
	names := make(map[string]bool)
	for typ := range uint64(0x32) {
		name := frameName(typ)
		if strings.HasPrefix(name, "frame ") {
			continue
		}
		if names[name] && !isStreamFrame(typ) {
			t.Errorf("two frames are named %s", name)
		}
		names[name] = true
		if got := isAckElicitingFrame(typ); got == quiet[typ] {
			t.Errorf("%s: ack-eliciting = %v", name, got)
		}
		if got := isHandshakeFrame(typ); got != handshake[typ] {
			t.Errorf("%s: allowed in the handshake = %v", name, got)
		}
	}
	if len(names) != 29 {
		t.Errorf("%d frames have a name, want 29", len(names))
	}
}
