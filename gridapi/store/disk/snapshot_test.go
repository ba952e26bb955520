package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

func fixRecordSum(b []byte, p place) {
	binary.LittleEndian.PutUint32(b, p.checksum(b[4:recordHeaderLen]))
}

func snapshotOf(t testing.TB, k tagKey, covers []coverage, entries []entry) []byte {
	f := &faultyFile{of: newFaultyFiles()}
	if err := writeSnapshot(f, k, covers, entries); err != nil {
		t.Fatal(err)
	}
	return f.b
}

func parseSnapshot(b []byte) (k tagKey, covers []coverage, entries []entry, err error) {
	k, covers, err = readSnapshot(bytes.NewReader(b), int64(len(b)), func(e entry) { entries = append(entries, e) })
	return k, covers, entries, err
}

var (
	goldenCovers  = []coverage{{1, 0x1122334455667788, 4096}, {2, 9, segmentHeaderLen}}
	goldenEntries = []entry{{0xa1a2a3a4a5a6a7a8, locate(1, segmentHeaderLen, 7), stateOf(0, 0x0506)}}
	goldenKey     = tagKey{1, 2, 3, 4, 5, 6, 7, 8}
)

func TestSnapshot(t *testing.T) {
	b := snapshotOf(t, goldenKey, goldenCovers, goldenEntries)
	golden(t, "index.hex", b)
	k, covers, entries, err := parseSnapshot(b)
	if err != nil || k != goldenKey || !slices.Equal(covers, goldenCovers) || !slices.Equal(entries, goldenEntries) {
		t.Errorf("readSnapshot = %v, %v, %v, %v", k, covers, entries, err)
	}
	for n := range b {
		if _, _, _, err := parseSnapshot(b[:n]); err == nil {
			t.Errorf("a prefix of %d bytes is taken", n)
		}
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x10
		if _, _, _, err := parseSnapshot(c); err == nil {
			t.Errorf("it is taken with byte %d changed", i)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add(snapshotOf(f, goldenKey, goldenCovers, goldenEntries))
	f.Add(snapshotOf(f, goldenKey, nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < snapshotSumLen {
			return
		}
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
		k, covers, entries, err := parseSnapshot(b)
		if err != nil {
			return
		}
		if again := snapshotOf(t, k, covers, entries); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to what encodes to %x", b, again)
		}
	})
}
