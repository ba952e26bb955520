package ri2n

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

func transportParamsForTest() transportParams {
	return transportParams{
		version:        version1,
		originalDCID:   0x0102030405060708,
		initialSCID:    0x1112131415161718,
		maxData:        1 << 20,
		maxStreamData:  1 << 19,
		maxStreamsBidi: 100,
		maxStreamsUni:  10,
		maxIdle:        time.Minute,
		maxAckDelay:    5 * time.Millisecond,
		maxDatagram:    1400,
		maxPaths:       15,
	}
}

func parseTransportParamsVector(b []byte) (any, []byte, int, error) {
	p, err := parseTransportParams(b)
	if err != nil {
		return p, nil, 0, err
	}
	return p, appendTransportParams(nil, p), len(b), nil
}

func transportParamVectors() []vector {
	client := transportParamsForTest()
	server := client
	server.retrySCID, server.hasRetrySCID = 0x2122232425262728, true
	head := []field{
		{2, "version, 4 bytes"}, {4, `"R2\x00\x01"`},
		{2, "original_destination_connection_id, 8 bytes"}, {8, "of the client's first Initial"},
		{2, "initial_source_connection_id, 8 bytes"}, {8, "of the sender"},
	}
	tail := []field{
		{2, "max_data, 4 bytes"}, {4, "1048576"},
		{2, "max_stream_data, 4 bytes"}, {4, "524288"},
		{2, "max_streams_bidi, 2 bytes"}, {2, "100"},
		{2, "max_streams_uni, 1 byte"}, {1, "10"},
		{2, "max_idle, 4 bytes"}, {4, "60000 ms"},
		{2, "max_ack_delay, 2 bytes"}, {2, "5000 us"},
		{2, "max_datagram, 2 bytes"}, {2, "1400"},
		{2, "max_paths, 1 byte"}, {1, "15"},
	}
	retry := []field{{2, "retry_source_connection_id, 8 bytes"}, {8, "of the Retry"}}
	params := func(name string, fields []field, p transportParams) vector {
		return vector{
			name:    name,
			fields:  fields,
			encode:  func(b []byte) []byte { return appendTransportParams(b, p) },
			parse:   parseTransportParamsVector,
			want:    p,
			bounded: true,
		}
	}
	return append([]vector{},
		params("transport_params", append(append([]field{}, head...), tail...), client),
		params("transport_params_retry", append(append(append([]field{}, head...), retry...), tail...), server))
}

func TestTransportParams(t *testing.T) {
	valid := appendTransportParams(nil, transportParamsForTest())
	unknown := func(id uint64, n int) []byte {
		return append(appendParamHeader(nil, id, n), make([]byte, n)...)
	}
	// without returns valid with parameter id cut out, and what was cut.
	without := func(id uint64) (rest, cut []byte) {
		for b := valid; ; {
			got, after, _ := parseVarint(b)
			_, after, _ = parseBytes(after)
			if got == id {
				return append(append([]byte{}, valid[:len(valid)-len(b)]...), after...), b[:len(b)-len(after)]
			}
			b = after
		}
	}
	replace := func(id uint64, value []byte) []byte {
		head, _ := without(id)
		_, cut := without(id)
		at := bytes.Index(valid, cut)
		out := append([]byte{}, head[:at]...)
		out = append(appendParamHeader(out, id, len(value)), value...)
		return append(out, head[at:]...)
	}
	maxPaths, last := without(paramMaxPaths)
	for _, tt := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"valid", valid, true},
		{"empty", nil, false},
		{"unknown behind", append(bytes.Clone(valid), unknown(0x40, 3)...), true},
		{"unknown and empty behind", append(bytes.Clone(valid), unknown(maxVarint, 0)...), true},
		{"unknown too large", append(bytes.Clone(valid), unknown(0x40, maxTransportParams)...), false},
		{"as large as may be", append(bytes.Clone(valid), unknown(0x40, maxTransportParams-len(valid)-4)...), true},
		{"one byte larger", append(bytes.Clone(valid), unknown(0x40, maxTransportParams-len(valid)-3)...), false},
		{"twice the last", append(bytes.Clone(valid), last...), false},
		{"twice an unknown one", append(append(bytes.Clone(valid), unknown(0x40, 0)...), unknown(0x40, 0)...), false},
		{"last one first", append(bytes.Clone(last), maxPaths...), false},
		{"short connection ID", replace(paramInitialSCID, make([]byte, 7)), false},
		{"long connection ID", replace(paramInitialSCID, make([]byte, 9)), false},
		{"short version", replace(paramVersion, make([]byte, 3)), false},
		{"no value", replace(paramMaxData, nil), false},
		{"value written too long", replace(paramMaxData, []byte{0x40, 1}), false},
		{"bytes behind the value", replace(paramMaxData, []byte{1, 0}), false},
		{"another limit", replace(paramMaxData, []byte{1}), true},
		{"too many streams", replace(paramMaxStreamsBidi, appendVarint(nil, maxStreamCount+1)), false},
		{"as many streams as there are", replace(paramMaxStreamsUni, appendVarint(nil, maxStreamCount)), true},
		{"idle too long", replace(paramMaxIdle, appendVarint(nil, maxDurationUnits+1)), false},
		{"path ID too large", replace(paramMaxPaths, appendVarint(nil, 1<<32)), false},
	} {
		if _, err := parseTransportParams(tt.b); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for id := range uint64(paramCount) {
		if id == paramRetrySCID {
			continue
		}
		b, _ := without(id)
		if _, err := parseTransportParams(b); err == nil {
			t.Errorf("parameter %#x may be left out", id)
		}
	}
	if got := binary.BigEndian.Uint32(valid[2:]); got != version1 {
		t.Errorf("the first value is %#x, want the version", got)
	}
}
