package swarm

import (
	"bufio"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A stranger speaks the protocol by hand.
type stranger struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

// meet connects a stranger to a Swarm by the simulated network.
func meet(t *testing.T, n *simNet, name, to string) *stranger {
	t.Helper()
	n.site(name, 0, 0, time.Millisecond)
	n.node(name, name)
	nc, err := n.dial(name)(t.Context(), to)
	must(t, err)
	x := &stranger{t, nc, bufio.NewReaderSize(nc, 64<<10)}
	x.send(frameHello, hello{protocolVersion, name}.appendBody)
	k, _ := x.next()
	if k != frameHello {
		t.Fatalf("frame %#x instead of HELLO", byte(k))
	}
	return x
}

func (x *stranger) send(k frameKind, body func([]byte) []byte) {
	x.nc.Write(appendFrame(nil, k, body)) // it may be closed: then next tells
}

// next returns the next frame, zero at the end.
func (x *stranger) next() (frameKind, []byte) {
	for {
		k, n, err := readHeader(x.r)
		if err != nil {
			return 0, nil
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(x.r, b); err != nil {
			return 0, nil
		}
		if k != frameBeat {
			return k, b
		}
	}
}

// until returns the first frame of a kind, or nil at the end.
func (x *stranger) until(kind frameKind) []byte {
	for {
		k, b := x.next()
		if k == kind {
			return append([]byte{}, b...)
		}
		if k == 0 {
			return nil
		}
	}
}

// besieged runs a Swarm that holds a few chunks, and a stranger.
func besieged(t *testing.T, do func(s *Swarm, m *memory, ids []chunk.ID, x *stranger)) {
	synctest.Test(t, func(t *testing.T) {
		content := newContent()
		ids := content.object(1, 4, 50_000)
		n := newSimNet()
		n.site("home", 10*mbit, 10*mbit, delay)
		m := content.holdings(ids[:2]...)
		s := n.start(t, "alice", "home", m)
		x := meet(t, n, "mallory", "alice")
		do(s, m, ids, x)
		x.nc.Close()
		s.Close()
		n.end()
	})
}

func TestMalformedEndsTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind frameKind
		body func([]byte) []byte
	}{
		{"no frame", 0x7f, nil},
		{"second HELLO", frameHello, hello{1, "mallory"}.appendBody},
		{"DATA that nobody asked for", frameData, func(b []byte) []byte { return append(b, 1) }},
		{"CHUNK that nobody asked for", frameChunk, chunkHeader{1, 10}.appendBody},
		{"MISS of nothing", frameMiss, answer{1, codeNotHeld}.appendBody},
		{"KEPT of nothing", frameKept, answer{1, codeDone}.appendBody},
		{"PART of nothing", framePart, part{1, nil}.appendBody},
		{"BEAT with a body", frameBeat, func(b []byte) []byte { return append(b, 1) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			besieged(t, func(s *Swarm, m *memory, ids []chunk.ID, x *stranger) {
				x.send(tt.kind, tt.body)
				b := x.until(frameBye)
				if said, err := parseBye(b); err != nil || said.reason != byeMalformed {
					t.Errorf("BYE %+v, %v", said, err)
				}
				if n := s.Counters().Malformed; n != 1 {
					t.Errorf("malformed = %d, want 1", n)
				}
			})
		})
	}
}

func TestTooManyLists(t *testing.T) {
	besieged(t, func(s *Swarm, m *memory, ids []chunk.ID, x *stranger) {
		for i := range maxLists + 1 {
			x.send(frameWant, want{uint32(i), false, ids}.appendBody)
		}
		if x.until(frameBye) == nil {
			t.Error("no BYE")
		}
		if n := s.Counters().Floods; n != 1 {
			t.Errorf("floods = %d, want 1", n)
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.subs) != 0 {
			t.Errorf("%d chunks are still watched for nobody", len(s.subs))
		}
	})
}

// TestFloodOfAsks: who asks and does not read is told that we are busy, is not
// read any more, and goes.
func TestFloodOfAsks(t *testing.T) {
	besieged(t, func(s *Swarm, m *memory, ids []chunk.ID, x *stranger) {
		began := time.Now()
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for i := uint32(0); ; i++ {
				if _, err := x.nc.Write(appendFrame(nil, frameAsk, ask{i, ids[0]}.appendBody)); err != nil {
					return
				}
			}
		}()
		<-gone
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v to get rid of it", took)
		}
		if s.Counters().Busy == 0 {
			t.Error("never busy")
		}
	})
}

func TestAskAndCancel(t *testing.T) {
	besieged(t, func(s *Swarm, m *memory, ids []chunk.ID, x *stranger) {
		x.send(frameAsk, ask{1, ids[0]}.appendBody)
		x.send(frameAsk, ask{2, ids[1]}.appendBody)
		x.send(frameCancel, number(2).appendBody)
		x.send(frameAsk, ask{3, ids[3]}.appendBody)
		x.send(frameCancel, number(99).appendBody)
		answers := make(map[uint32]code)
		for range 3 {
			switch k, b := x.next(); k {
			case frameChunk:
				h, err := parseChunkHeader(b)
				must(t, err)
				answers[h.request] = codeDone
				var sealed []byte
				for len(sealed) < int(h.size) {
					k, b := x.next()
					if k == frameMiss {
						a, err := parseAnswer(k, b)
						must(t, err)
						answers[a.request] = a.code
						continue
					}
					sealed = append(sealed, b...)
				}
			case frameMiss:
				a, err := parseAnswer(k, b)
				must(t, err)
				answers[a.request] = a.code
			}
			if len(answers) == 3 {
				break
			}
		}
		if answers[1] != codeDone || answers[2] != codeWithdrawn && answers[2] != codeDone || answers[3] != codeNotHeld {
			t.Errorf("answers = %v", answers)
		}
	})
}

// TestFalseHaves: a peer that holds nothing of what it announces delays nobody
// for long.
func TestFalseHaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := newContent()
		ids := content.object(1, 40, 10_000)
		n := newSimNet()
		for _, site := range []string{"a", "b"} {
			n.site(site, 10*mbit, 10*mbit, delay)
		}
		m := content.holdings()
		s := n.start(t, "reader", "a", m)
		honest := n.start(t, "honest", "b", content.holdings(ids...))
		x := meet(t, n, "mallory", "reader")
		go func() {
			for {
				k, b := x.next()
				switch k {
				case 0:
					return
				case frameWant:
					w, _ := parseWant(b)
					x.send(frameHeld, held{w.list, slices.Repeat([]byte{0xff}, (len(w.ids)+7)/8)}.appendBody)
				case frameAsk:
					a, _ := parseAsk(b)
					x.send(frameMiss, answer{a.request, codeNotHeld}.appendBody)
				}
			}
		}()
		began := time.Now()
		if err := s.Fetch(t.Context(), ids, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("Fetch took %v", took)
		}
		if s.Counters().FalseHaves == 0 {
			t.Error("no false announcement was counted")
		}
		x.nc.Close()
		s.Close()
		honest.Close()
		n.end()
	})
}

// TestStopsInTheMiddle: a peer sends half a chunk and falls silent.
func TestStopsInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := newContent()
		ids := content.object(1, 4, 50_000)
		n := newSimNet()
		for _, site := range []string{"a", "b"} {
			n.site(site, 10*mbit, 10*mbit, delay)
		}
		s := n.start(t, "reader", "a", content.holdings())
		x := meet(t, n, "mallory", "reader")
		go func() {
			for {
				k, b := x.next()
				switch k {
				case 0:
					return
				case frameWant:
					w, _ := parseWant(b)
					x.send(frameHeld, held{w.list, []byte{0x0f}}.appendBody)
				case frameAsk:
					a, _ := parseAsk(b)
					x.send(frameChunk, chunkHeader{a.request, 50_000}.appendBody)
					x.send(frameData, func(b []byte) []byte { return append(b, content.chunks[a.id][:25_000]...) })
					return
				}
			}
		}()
		time.AfterFunc(3*time.Second, func() {
			honest := n.start(t, "honest", "b", content.holdings(ids...))
			time.AfterFunc(2*time.Minute, func() { honest.Close() })
		})
		began := time.Now()
		if err := s.Fetch(t.Context(), ids, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("Fetch took %v", took)
		}
		if n := s.Counters().Cut; n != 25_000 {
			t.Errorf("cut = %d bytes, want 25000", n)
		}
		x.nc.Close()
		s.Close()
		n.end()
	})
}

// A shelf keeps for others, up to a number of chunks.
type shelf struct{ room int }

func (k *shelf) Admit(string, [32]byte, chunk.ID) bool { k.room--; return k.room >= 0 }
func (k *shelf) Keep(string, [32]byte, chunk.ID) error { return nil }
func (k *shelf) Drop(string, [32]byte, chunk.ID) error { return nil }

func TestKeepSampleRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := newContent()
		ids := content.object(1, 2, 50_000)
		n := newSimNet()
		for _, site := range []string{"a", "b", "c"} {
			n.site(site, 10*mbit, 10*mbit, delay)
		}
		owner := n.start(t, "owner", "a", content.holdings(ids...))
		m := content.holdings()
		holder := n.start(t, "holder", "b", m, func(c *Config) { c.Keeper = &shelf{room: 1} })
		closed := n.start(t, "closed", "c", content.holdings())
		ctx := t.Context()
		object := [32]byte{1}
		must(t, owner.Keep(ctx, "holder", object, ids[0]))
		if !m.Has(ids[0]) {
			t.Error("the holder does not hold what it keeps")
		}
		var kept *KeepError
		if err := owner.Keep(ctx, "holder", object, ids[1]); !asKeep(err, &kept) || !kept.NoRoom {
			t.Errorf("Keep without room = %v", err)
		}
		if err := owner.Keep(ctx, "closed", object, ids[0]); !asKeep(err, &kept) || kept.NoRoom {
			t.Errorf("Keep at a node that keeps nothing = %v", err)
		}
		if b, err := owner.Sample(ctx, "holder", ids[0], 100, 64); err != nil || string(b) != string(content.chunks[ids[0]][100:164]) {
			t.Errorf("Sample = %x, %v", b, err)
		}
		if _, err := owner.Sample(ctx, "holder", ids[1], 100, 64); !asKeep(err, &kept) || !kept.Absent {
			t.Errorf("Sample of what is not held = %v", err)
		}
		if b, err := owner.Read(ctx, "holder", ids[0]); err != nil || len(b) != 50_000 {
			t.Errorf("Read = %d bytes, %v", len(b), err)
		}
		if _, err := owner.Read(ctx, "holder", ids[1]); !asKeep(err, &kept) || !kept.Absent {
			t.Errorf("Read of what is not held = %v", err)
		}
		m.mu.Lock()
		m.wrong[ids[0]] = []byte("altered")
		m.mu.Unlock()
		if _, err := owner.Read(ctx, "holder", ids[0]); !asKeep(err, &kept) || !kept.Wrong {
			t.Errorf("Read of an altered chunk = %v", err)
		}
		owner.Close()
		holder.Close()
		closed.Close()
		n.end()
	})
}

func asKeep(err error, to **KeepError) bool {
	k, is := err.(*KeepError)
	*to = k
	return is
}
