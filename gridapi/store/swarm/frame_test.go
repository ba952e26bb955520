package swarm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var update = flag.Bool("update", false, "rewrite testdata")

// A frameBody is any body of a frame.
type frameBody interface{ appendBody([]byte) []byte }

var golden = []struct {
	name string
	kind frameKind
	body frameBody
	cut  bool // shorter ones may be frames too
}{
	{"hello", frameHello, hello{1, "alice"}, false},
	{"want", frameWant, want{7, true, []chunk.ID{chunk.Sum([]byte("a"))}}, false},
	{"held", frameHeld, held{7, []byte{0b1}}, false},
	{"have", frameHave, indices{7, []uint16{1}}, false},
	{"claim", frameClaim, indices{7, []uint16{2}}, false},
	{"forget", frameForget, number(7), false},
	{"end", frameEnd, number(7), false},
	{"ask", frameAsk, ask{9, chunk.Sum([]byte("a"))}, false},
	{"cancel", frameCancel, number(9), false},
	{"chunk", frameChunk, chunkHeader{9, 1 << 20}, false},
	{"miss", frameMiss, answer{9, codeNotHeld}, false},
	{"keep", frameKeep, keep{3, [32]byte{1}, chunk.Sum([]byte("a"))}, false},
	{"drop", frameDrop, keep{3, [32]byte{1}, chunk.Sum([]byte("a"))}, false},
	{"kept", frameKept, answer{3, codeDone}, false},
	{"sample", frameSample, sample{4, chunk.Sum([]byte("a")), 100, 64}, false},
	{"part", framePart, part{4, []byte("bytes")}, true},
	{"bye", frameBye, bye{byeIdle, "idle"}, false},
}

func wrap[T frameBody](x T, err error) (frameBody, error) { return x, err }

// parseBody decodes the body of a frame.
func parseBody(k frameKind, b []byte) (frameBody, error) {
	switch k {
	case frameHello:
		return wrap(parseHello(b))
	case frameWant:
		return wrap(parseWant(b))
	case frameHeld:
		return wrap(parseHeld(b))
	case frameHave, frameClaim:
		return wrap(parseIndices(k, b))
	case frameForget, frameEnd, frameCancel:
		return wrap(parseNumber(k, b))
	case frameAsk:
		return wrap(parseAsk(b))
	case frameChunk:
		return wrap(parseChunkHeader(b))
	case frameMiss, frameKept:
		return wrap(parseAnswer(k, b))
	case frameKeep, frameDrop:
		return wrap(parseKeep(k, b))
	case frameSample:
		return wrap(parseSample(b))
	case framePart:
		return wrap(parsePart(b))
	case frameBye:
		return wrap(parseBye(b))
	}
	return nil, errMalformed
}

func TestFramesGolden(t *testing.T) {
	for _, g := range golden {
		b := appendFrame(nil, g.kind, g.body.appendBody)
		file := filepath.Join("testdata", g.name+".hex")
		if *update {
			text := "# swarm." + g.name + ". Kind, length, body.\n" + hex.EncodeToString(b[:1]) + "\n" + hex.EncodeToString(b[1:frameHeaderLen]) + "\n" + hex.EncodeToString(b[frameHeaderLen:]) + "\n"
			must(t, os.WriteFile(file, []byte(text), 0o644))
		}
		text, err := os.ReadFile(file)
		must(t, err)
		_, digits, _ := strings.Cut(string(text), "\n")
		if want, err := hex.DecodeString(strings.ReplaceAll(digits, "\n", "")); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %x, want %x (%v)", g.name, b, want, err)
		}
		r := bufio.NewReader(bytes.NewReader(b))
		k, n, err := readHeader(r)
		must(t, err)
		body, err := io.ReadAll(r)
		must(t, err)
		if n != len(body) {
			t.Errorf("%s: length %d, body of %d bytes", g.name, n, len(body))
		}
		if got, err := parseBody(k, body); err != nil || !reflect.DeepEqual(got, g.body) {
			t.Errorf("%s decodes to %+v, %v", g.name, got, err)
		}
		if g.cut {
			continue
		}
		for i := range body {
			if got, err := parseBody(k, body[:i]); !errors.Is(err, errMalformed) {
				t.Errorf("%s: prefix of %d bytes decodes to %+v, %v", g.name, i, got, err)
			}
		}
	}
}

func TestFramesRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind frameKind
		body []byte
	}{
		{"WANT of nothing", frameWant, want{list: 1}.appendBody(nil)},
		{"WANT of too many", frameWant, want{1, false, make([]chunk.ID, listSize+1)}.appendBody(nil)},
		{"HAVE out of order", frameHave, indices{1, []uint16{2, 1}}.appendBody(nil)},
		{"HAVE twice", frameHave, indices{1, []uint16{2, 2}}.appendBody(nil)},
		{"HAVE of no list", frameHave, indices{1, []uint16{listSize}}.appendBody(nil)},
		{"HELD too long", frameHeld, held{1, make([]byte, bitmapSize+1)}.appendBody(nil)},
		{"CHUNK too large", frameChunk, chunkHeader{1, chunk.MaxSize + 1}.appendBody(nil)},
		{"CHUNK of nothing", frameChunk, chunkHeader{1, 0}.appendBody(nil)},
		{"MISS that is done", frameMiss, answer{1, codeDone}.appendBody(nil)},
		{"SAMPLE too long", frameSample, sample{1, chunk.ID{}, 0, maxSample + 1}.appendBody(nil)},
		{"unknown", 0x7f, nil},
	} {
		if got, err := parseBody(tt.kind, tt.body); !errors.Is(err, errMalformed) {
			t.Errorf("%s decodes to %+v, %v", tt.name, got, err)
		}
	}
	long := append([]byte{byte(frameData)}, 0, 1, 0, 1)
	if _, _, err := readHeader(bufio.NewReader(bytes.NewReader(long))); !errors.Is(err, errMalformed) {
		t.Errorf("DATA of 65 537 bytes: %v", err)
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, g := range golden {
		f.Add(appendFrame(nil, g.kind, g.body.appendBody))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		k, n, err := readHeader(r)
		if err != nil || k == frameData {
			return
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		x, err := parseBody(k, body)
		if err != nil {
			return
		}
		if again := appendFrame(nil, k, x.appendBody); !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, x, again)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
