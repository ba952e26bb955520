package transfer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata")

func sum(fill byte) (s Sum) {
	for i := range s {
		s[i] = fill
	}
	return s
}

var offerExample = Offer{Name: "photos of Århus.tar", Size: 1<<32 + 5, Mode: 0o755, ModTime: time.Unix(1_800_000_000, 0)}

// payloads are examples of every control payload, with the lengths of their
// fields.
var payloads = []struct {
	name   string
	kind   frameType
	value  any
	fields []int
}{
	{"hello", frameHello, hello{version, roleReceiver}, []int{4, 1, 1}},
	{"offer", frameOffer, offerExample, []int{1, 2, 8, 8, 1, 20}},
	{"have", frameHave, have{{1 << 20, sum(0xaa)}, {3 << 20, sum(0xbb)}}, []int{8, 32, 8, 32}},
	{"have-nothing", frameHave, have(nil), nil},
	{"start", frameStart, int64(3 << 20), []int{8}},
	{"ack", frameAck, int64(1<<40 + 1), []int{8}},
	{"final", frameFinal, sum(0xcc), []int{32}},
	{"done", frameDone, sum(0xcc), []int{32}},
	{"abort", frameAbort, AbortError{AbortSpace, "it needs another 5 bytes"}, []int{1, 24}},
}

func appendPayload(kind frameType, v any) []byte {
	switch v := v.(type) {
	case hello:
		return appendHello(nil, v)
	case Offer:
		return appendOffer(nil, v)
	case have:
		return appendHave(nil, v)
	case int64:
		return appendOffset(nil, v)
	case Sum:
		return v[:]
	case AbortError:
		return appendAbort(nil, v)
	}
	panic(fmt.Sprintf("no payload of type %d is a %T", kind, v))
}

func parsePayload(kind frameType, b []byte) (any, error) {
	switch kind {
	case frameHello:
		return parseHello(b)
	case frameOffer:
		return parseOffer(b)
	case frameHave:
		return parseHave(b)
	case frameStart, frameAck:
		return parseOffset(b)
	case frameFinal, frameDone:
		return parseSum(b)
	case frameAbort:
		return parseAbort(b)
	}
	return nil, errors.New("no payload")
}

func TestGolden(t *testing.T) {
	var out bytes.Buffer
	fmt.Fprintln(&out, "# Control frames, version 1: type, length, and the fields of the payload.")
	for _, p := range payloads {
		b := appendPayload(p.kind, p.value)
		frame := append(appendFrameHeader(nil, p.kind, len(b)), b...)
		fmt.Fprintf(&out, "\n# %s\n", p.name)
		rest := frame
		for _, n := range append([]int{1, 4}, p.fields...) {
			fmt.Fprintf(&out, "%x\n", rest[:n])
			rest = rest[n:]
		}
		if len(rest) > 0 {
			t.Errorf("%s: %d bytes beyond its fields", p.name, len(rest))
		}
	}
	file := filepath.Join("testdata", "frames.hex")
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("encodings differ from %s:\n%s", file, out.String())
	}
	// And back, from the file alone.
	for i, section := range strings.Split(string(want), "\n\n")[1:] {
		_, text, _ := strings.Cut(section, "\n")
		b, err := hex.DecodeString(strings.ReplaceAll(text, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		kind, n, payload, err := parseFrameHeader(b)
		if err != nil || kind != payloads[i].kind || n != len(payload) {
			t.Fatalf("%s: header %d, %d, %v", payloads[i].name, kind, n, err)
		}
		if got, err := parsePayload(kind, payload); err != nil || !reflect.DeepEqual(got, payloads[i].value) {
			t.Errorf("%s decodes to %+v, %v", payloads[i].name, got, err)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, p := range payloads {
		b := appendPayload(p.kind, p.value)
		for n := range len(b) {
			v, err := parsePayload(p.kind, b[:n])
			// A list may end after each of its entries, a text anywhere.
			if p.kind == frameHave && n%40 == 0 || p.kind == frameAbort && n > 0 {
				continue
			}
			if err == nil {
				t.Errorf("%s: %d of %d bytes decode to %+v", p.name, n, len(b), v)
			}
		}
		if p.kind == frameHello || p.kind == frameAbort || p.kind == frameHave {
			continue
		}
		if v, err := parsePayload(p.kind, append(b, 0)); err == nil {
			t.Errorf("%s: with a byte too many decodes to %+v", p.name, v)
		}
	}
	for n := range frameHeaderSize {
		if _, _, _, err := parseFrameHeader(make([]byte, n)); err != io.ErrUnexpectedEOF {
			t.Errorf("header of %d bytes: %v", n, err)
		}
	}
}

func TestRefused(t *testing.T) {
	bad := func(change func(*Offer)) []byte {
		o := offerExample
		change(&o)
		return appendOffer(nil, o)
	}
	for _, tt := range []struct {
		name string
		kind frameType
		b    []byte
	}{
		{"other magic", frameHello, []byte("HTTP/1")},
		{"no role", frameHello, appendHello(nil, hello{version, 0})},
		{"third role", frameHello, appendHello(nil, hello{version, 3})},
		{"longer hello", frameHello, append(appendHello(nil, hello{version, 1}), 0)},
		{"set-user-ID", frameOffer, bad(func(o *Offer) { o.Mode = 0 })[:0]},
		{"huge size", frameOffer, bad(func(o *Offer) { o.Size = -1 })},
		{"path", frameOffer, bad(func(o *Offer) { o.Name = "../../etc/passwd" })},
		{"hash of tomorrow", frameOffer, append([]byte{9}, bad(func(*Offer) {})[1:]...)},
		{"write for all", frameOffer, append([]byte{1, 0x01, 0xff}, bad(func(*Offer) {})[3:]...)},
		{"three beginnings", frameHave, appendHave(nil, have{{1, Sum{}}, {2, Sum{}}, {3, Sum{}}})},
		{"beginnings out of order", frameHave, appendHave(nil, have{{2, Sum{}}, {1, Sum{}}})},
		{"equal beginnings", frameHave, appendHave(nil, have{{2, Sum{}}, {2, Sum{}}})},
		{"empty beginning", frameHave, appendHave(nil, have{{0, Sum{}}})},
		{"negative beginning", frameHave, appendHave(nil, have{{-1, Sum{}}})},
		{"negative offset", frameStart, appendOffset(nil, -1)},
		{"long abort", frameAbort, make([]byte, 2+maxText)},
		{"empty abort", frameAbort, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if v, err := parsePayload(tt.kind, tt.b); err == nil {
				t.Errorf("%x decodes to %+v", tt.b, v)
			}
		})
	}
	var version *VersionError
	if _, err := parseHello([]byte("IGFT\x02\x01and more")); !errors.As(err, &version) || version.Theirs != 2 {
		t.Errorf("hello of version 2: %v", err)
	}
	for _, tt := range []struct {
		name string
		t    frameType
		n    uint32
	}{
		{"type", frameAbort + 1, 0},
		{"long control", frameAck, maxControl + 1},
		{"long data", frameData, chunkSize + 1},
		{"absurd", frameData, 1<<32 - 1},
	} {
		b := appendFrameHeader(nil, tt.t, int(tt.n))
		if _, _, _, err := parseFrameHeader(b); err == nil {
			t.Errorf("header %s is accepted", tt.name)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "report.pdf", "photos of Århus.tar", "日本.txt", "-rf", "a..b", strings.Repeat("x", maxName-len(journalSuffix))} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "/", "a/b", `a\b`, "../x", "/etc/passwd", "a\x00b", "a\nb", "a\x1b[2Jb", "a\u202egpj.exe", "a\u200bb",
		"\xff\xfe", ".bashrc", "a.part", "a.part.journal", " a", "a ", "a.", "a\u2028", strings.Repeat("x", maxName),
	} {
		if err := CheckName(name); err == nil {
			t.Errorf("CheckName(%q) = nil", name)
		} else if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x202e }) {
			t.Errorf("CheckName(%q) shows a control character: %q", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range payloads {
		f.Add(byte(p.kind), appendPayload(p.kind, p.value))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		if len(b) > maxControl {
			return
		}
		v, err := parsePayload(frameType(kind), b)
		if err != nil {
			return
		}
		if a, ok := v.(AbortError); ok {
			if strings.ContainsFunc(a.Text, unprintable) {
				t.Errorf("abort text %q", a.Text)
			}
			return // its text is cleaned, and so not the same
		}
		if again := appendPayload(frameType(kind), v); !bytes.Equal(again, b) {
			t.Errorf("type %d: %x decodes to %+v, which encodes to %x", kind, b, v, again)
		}
	})
}

// A script is a connection whose peer says one thing and hears nothing.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s script) Write(b []byte) (int, error)      { return len(b), nil }
func (s script) Close() error                     { return nil }
func (s script) SetDeadline(time.Time) error      { return nil }
func (s script) SetReadDeadline(time.Time) error  { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

// frames joins frames given as type and payload.
func frames(parts ...any) []byte {
	var b []byte
	for i := 0; i < len(parts); i += 2 {
		payload := parts[i+1].([]byte)
		b = append(appendFrameHeader(b, parts[i].(frameType), len(payload)), payload...)
	}
	return b
}

// FuzzReceive lets a hostile sender say anything. Nothing may appear outside
// the directory, nor anything under the file's own name that was not verified.
func FuzzReceive(f *testing.F) {
	small := Offer{Name: "a", Size: 3, Mode: 0o644}
	f.Add(frames(frameOffer, appendOffer(nil, small), frameStart, appendOffset(nil, 0), frameData, []byte("abc"), frameFinal, make([]byte, 32)))
	f.Add(frames(frameOffer, appendOffer(nil, offerExample), frameAbort, appendAbort(nil, AbortError{AbortRead, "x"})))
	f.Add(frames(frameOffer, appendOffer(nil, small), frameStart, appendOffset(nil, 3), frameBye, []byte{}))
	f.Add(frames(frameOffer, appendOffer(nil, small), frameStart, appendOffset(nil, 0), frameData, []byte("abcd")))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "inbox")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b = append(frames(frameHello, appendHello(nil, hello{version, roleSender})), b...)
		r, err := Receive(t.Context(), script{Reader: bytes.NewReader(b)}, ReceiveOptions{Dir: dir, From: "x", volatile: true})
		if list, _ := os.ReadDir(top); len(list) != 1 {
			t.Errorf("left outside the directory: %v", list)
		}
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			name := e.Name()
			if err != nil && !strings.HasSuffix(name, partSuffix) && !strings.HasSuffix(name, journalSuffix) {
				t.Errorf("%q appeared though %v", name, err)
			}
			if err == nil && name != r.Name {
				t.Errorf("%q is left beside %q", name, r.Name)
			}
		}
	})
}

// FuzzSend lets a hostile receiver say anything: it never hears a success that
// is none.
func FuzzSend(f *testing.F) {
	f.Add(frames(frameHave, []byte{}, frameAck, appendOffset(nil, 3), frameDone, make([]byte, 32)))
	f.Add(frames(frameHave, appendHave(nil, have{{2, Sum{}}}), frameAck, appendOffset(nil, 1)))
	f.Add(frames(frameAbort, appendAbort(nil, AbortError{AbortExists, "\x1b"})))
	dir := f.TempDir()
	path := filepath.Join(dir, "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		f.Fatal(err)
	}
	want := Sum{0xba, 0x78, 0x16, 0xbf}
	f.Fuzz(func(t *testing.T, b []byte) {
		src, err := Open(path, "")
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		b = append(frames(frameHello, appendHello(nil, hello{version, roleReceiver})), b...)
		r, err := Send(t.Context(), script{Reader: bytes.NewReader(b)}, src, Observer{})
		if err == nil && !bytes.Equal(r.Sum[:4], want[:4]) {
			t.Errorf("sent with sum %v", r.Sum)
		}
	})
}

func TestHostileSender(t *testing.T) {
	hi := frames(frameHello, appendHello(nil, hello{version, roleSender}))
	offer := appendOffer(nil, Offer{Name: "a", Size: 3, Mode: 0o644})
	whole := sum(0)
	for _, tt := range []struct {
		name string
		say  []byte
		want error
	}{
		{"silence", nil, &LostError{}},
		{"another protocol", []byte("SSH-2.0-OpenSSH_9.9\r\n"), &ProtocolError{}},
		{"another receiver", frames(frameHello, appendHello(nil, hello{version, roleReceiver})), &ProtocolError{}},
		{"newer version", frames(frameHello, []byte("IGFT\x07\x01")), &VersionError{}},
		{"start without offer", append(bytes.Clone(hi), frames(frameStart, appendOffset(nil, 0))...), &ProtocolError{}},
		{"evil name", append(bytes.Clone(hi), frames(frameOffer, appendOffer(nil, Offer{Name: "../a", Size: 3}))...), &NameError{}},
		{"start where nothing is", append(bytes.Clone(hi), frames(frameOffer, offer, frameStart, appendOffset(nil, 2))...), &ProtocolError{}},
		{"too much", append(bytes.Clone(hi), frames(frameOffer, offer, frameStart, appendOffset(nil, 0), frameData, []byte("abcd"))...), &ProtocolError{}},
		{"too little", append(bytes.Clone(hi), frames(frameOffer, offer, frameStart, appendOffset(nil, 0), frameData, []byte("ab"), frameFinal, whole[:])...), &ProtocolError{}},
		{"wrong hash", append(bytes.Clone(hi), frames(frameOffer, offer, frameStart, appendOffset(nil, 0), frameData, []byte("abc"), frameFinal, whole[:])...), &IntegrityError{}},
		{"cut off", append(bytes.Clone(hi), frames(frameOffer, offer, frameStart, appendOffset(nil, 0), frameData, []byte("abc"))...), &LostError{}},
		{"larger than any disk", append(bytes.Clone(hi), frames(frameOffer, appendOffer(nil, Offer{Name: "a", Size: maxSize}))...), &SpaceError{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Receive(t.Context(), script{Reader: bytes.NewReader(tt.say)}, ReceiveOptions{Dir: dir})
			if got, want := reflect.TypeOf(errorOf(err)), reflect.TypeOf(tt.want); got != want {
				t.Errorf("receive: %v (%v), want %v", err, got, want)
			}
			if _, err := os.Lstat(filepath.Join(dir, "a")); err == nil {
				t.Error("a file appeared")
			}
			if tt.name == "wrong hash" {
				if list, _ := os.ReadDir(dir); len(list) > 0 {
					t.Errorf("damaged data is kept: %v", list)
				}
			}
		})
	}
}

// errorOf returns the first of our error types in err.
func errorOf(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e.(type) {
		case *AbortError, *LostError, *ProtocolError, *VersionError, *NameError, *SpaceError, *ObstacleError, *ChangedError, *IntegrityError:
			return e
		}
	}
	return err
}
