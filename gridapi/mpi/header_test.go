package mpi

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata")

// golden compares bytes with a file of hexadecimal lines.
func golden(t *testing.T, name string, lines ...string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || string(want) != got {
		t.Errorf("%s: %v\ngot:\n%s", name, err, got)
	}
}

func TestGoldenBytes(t *testing.T) {
	var lines []string
	for _, x := range []struct {
		name string
		h    header
	}{
		{"eager", header{kind: frameEager, tag: 7, context: worldContext, size: 5}},
		{"RTS", header{kind: frameRTS, tag: 7, check: 9, context: worldContext | 1, id: 3, size: 1 << 20}},
		{"CTS", header{kind: frameCTS, id: 3, size: 1 << 20}},
		{"data", header{kind: frameData, id: 3, size: 1 << 19}},
		{"credit", header{kind: frameCredit, size: creditQuantum}},
		{"abort", header{kind: frameAbort, tag: 1, check: uint32(ErrProcFailed), context: worldContext, id: 2}},
		{"dead", header{kind: frameDead, id: 2}},
		{"bye", header{kind: frameBye}},
	} {
		b := make([]byte, HeaderLen)
		putHeader(b, x.h)
		lines = append(lines, hex.EncodeToString(b)+" "+x.name)
		if h, err := parseHeader(b); err != nil || h != x.h {
			t.Errorf("%s: %+v, %v", x.name, h, err)
		}
		for n := range b {
			if _, err := parseHeader(b[:n]); err == nil {
				t.Errorf("%s: %d bytes are enough", x.name, n)
			}
		}
	}
	h := appendHello(nil, hello{job: [32]byte{1}, epoch: 2, size: 4, from: 3, to: 1, incarnation: 5})
	lines = append(lines, hex.EncodeToString(h)+" hello")
	for n := range h {
		if _, err := parseHello(h[:n]); err == nil {
			t.Errorf("hello: %d bytes are enough", n)
		}
	}
	m := appendAgreeMessage(nil, agreeMessage{phase: phaseVote, leader: 0, adopted: -1, vote: vote{1, rankSet{4}, rankSet{0}}})
	lines = append(lines, hex.EncodeToString(m)+" vote of three ranks")
	for n := range m {
		if _, err := parseAgreeMessage(m[:n], 3); err == nil {
			t.Errorf("vote: %d bytes are enough", n)
		}
	}
	golden(t, "frames.hex", lines...)
}

func FuzzParseHeader(f *testing.F) {
	b := make([]byte, HeaderLen)
	putHeader(b, header{kind: frameRTS, tag: 7, context: 5, id: 3, size: 1 << 20})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, HeaderLen)
		if putHeader(again, h); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, h, again)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	f.Add(appendHello(nil, hello{[32]byte{1}, 2, 3, 4, 5, 6}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err == nil && !bytes.Equal(appendHello(nil, h), b) {
			t.Errorf("%x decodes to %+v", b, h)
		}
	})
}

func FuzzParseAgreeMessage(f *testing.F) {
	f.Add(appendAgreeMessage(nil, agreeMessage{phase: phaseVote, adopted: -1, vote: vote{1, rankSet{4}, rankSet{0}}}), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 1 || n > 64 {
			return
		}
		m, err := parseAgreeMessage(b, n)
		if err == nil && !bytes.Equal(appendAgreeMessage(nil, m), b) {
			t.Errorf("%x decodes to %+v", b, m)
		}
	})
}

// silent is an endpoint whose other ranks are the test.
type silent struct{}

func (*silent) Rank() int                        { return 0 }
func (*silent) Size() int                        { return 3 }
func (*silent) Start(Receiver)                   {}
func (s *silent) Send(int, []byte, []byte) error { return nil }
func (*silent) Drop(int)                         {}
func (*silent) Close() error                     { return nil }

// FuzzHostileFrames hands frames of any kind to a process in the midst of calls:
// it does not panic and holds no more than the window.
func FuzzHostileFrames(f *testing.F) {
	for k := frameEager; k <= frameBye; k++ {
		b := make([]byte, HeaderLen)
		putHeader(b, header{kind: k})
		f.Add(append([]byte{4}, append(b, 1, 2, 3, 4)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Init(&silent{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		c := p.World()
		if _, err := c.Irecv(make([]byte, 10), AnySource, AnyTag); err != nil {
			t.Fatal(err)
		}
		if _, err := Iallreduce(c, []int{1}, make([]int, 1), Sum[int]()); err != nil {
			t.Fatal(err)
		}
		for len(b) > HeaderLen {
			n := min(int(b[0]), len(b)-1-HeaderLen)
			if receiver.Frame(receiver{p}, 1+int(b[0])%2, b[1:1+HeaderLen], b[1+HeaderLen:1+HeaderLen+n]) != nil {
				break
			}
			b = b[1+HeaderLen+n:]
		}
		p.mu.Lock()
		for i := range p.peers {
			if p.peers[i].held > window {
				t.Errorf("rank %d takes up %d bytes", i, p.peers[i].held)
			}
		}
		p.mu.Unlock()
		p.Close()
	})
}
