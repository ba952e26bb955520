package rpc

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata")

// A frameBody is any body of a frame.
type frameBody interface{ appendBody([]byte) []byte }

var golden = []struct {
	name string
	kind frameKind
	body frameBody
}{
	{"hello", frameHello, hello{version: 1, watch: true}},
	{"call", frameCall, call{number: 9, flags: callStream, timeout: 5000, codec: "cbor", function: "add", signature: "{A float64} -> float64"}},
	{"welcome", frameWelcome, welcome{version: 1, slots: 2, busy: 1, calls: 70, failures: 3, name: "alice", site: "home", functions: []FunctionInfo{
		{Name: "add", Kind: KindValues, Signature: "{a float64} -> float64", Typical: 12 * time.Millisecond}, {Name: "codeml", Kind: KindStream},
	}}},
	{"welcome-bare", frameWelcome, welcome{version: 1, slots: 1}},
	{"result", frameResult, result{call: 9, digest: sha256.Sum256(nil)}},
	{"beat", frameBeat, beat{5000}},
	{"error", frameError, failure{call: 9, code: failBusy, pause: 500, message: "full"}},
}

// parseBody decodes the body of a frame.
func parseBody(k frameKind, b []byte) (frameBody, error) {
	switch k {
	case frameHello:
		return wrap(parseHello(b))
	case frameCall:
		return wrap(parseCall(b))
	case frameWelcome:
		return wrap(parseWelcome(b))
	case frameBeat:
		return wrap(parseBeat(b))
	case frameResult:
		return wrap(parseResult(b))
	case frameError:
		return wrap(parseFailure(b))
	}
	return nil, errMalformed
}

func wrap[T frameBody](x T, err error) (frameBody, error) { return x, err }

func TestFramesGolden(t *testing.T) {
	for _, g := range golden {
		b := appendFrame(nil, g.kind, g.body.appendBody)
		file := filepath.Join("testdata", g.name+".hex")
		if *update {
			text := "# rpc." + g.name + ". Kind, length, body.\n" + hex.EncodeToString(b[:1]) + "\n" + hex.EncodeToString(b[1:frameHeaderLen]) + "\n" + hex.EncodeToString(b[frameHeaderLen:]) + "\n"
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
		body, err := readBody(r, n)
		must(t, err)
		if got, err := parseBody(k, body); err != nil || !reflect.DeepEqual(got, g.body) {
			t.Errorf("%s decodes to %+v, %v", g.name, got, err)
		}
		for i := range body {
			if got, err := parseBody(k, body[:i]); !errors.Is(err, errMalformed) {
				t.Errorf("%s: prefix of %d bytes decodes to %+v, %v", g.name, i, got, err)
			}
		}
		if _, err := parseBody(k, append(body, 0)); !errors.Is(err, errMalformed) {
			t.Errorf("%s with a byte more: %v", g.name, err)
		}
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
		body, err := readBody(r, n)
		if err != nil {
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

// A worker with very many functions still fits into a frame.
func TestWelcomeFits(t *testing.T) {
	w := welcome{version: 1, name: strings.Repeat("n", maxName), site: strings.Repeat("s", maxName)}
	for range maxFunctions {
		w.functions = append(w.functions, FunctionInfo{Name: strings.Repeat("f", maxName), Kind: KindValues, Signature: strings.Repeat("x", maxSignature/8)})
	}
	b := w.appendBody(nil)
	if len(b) > maxBody {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := parseWelcome(b)
	if err != nil || len(got.functions) != maxFunctions || got.functions[0].Signature == "" || got.functions[maxFunctions-1].Signature != "" {
		t.Errorf("%d functions, %v", len(got.functions), err)
	}
}
