package fifo

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// An envelope is a frame under way.
type envelope struct {
	at    time.Time
	frame []byte
	ack   bool
}

// A carrier loses, repeats and reorders.
type carrier struct {
	r         *rand.Rand
	now       time.Time
	loss, dup float64
	delay     time.Duration // each frame takes up to that
	flight    []envelope
}

func (c *carrier) put(now time.Time, f []byte) {
	copies := 1
	if c.r.Float64() < c.dup {
		copies = 2
	}
	for range copies {
		if c.r.Float64() >= c.loss {
			at := now.Add(time.Duration(c.r.Int64N(int64(c.delay)) + 1))
			c.flight = append(c.flight, envelope{at, f, IsAck(f)})
		}
	}
}

func TestExactlyOnceInOrder(t *testing.T) {
	for _, tt := range []struct {
		name      string
		loss, dup float64
		moves     int // every so many messages the sender or the receiver moves
	}{
		{"good carrier", 0, 0, 0},
		{"loss", 0.3, 0, 0},
		{"repetition", 0, 0.5, 0},
		{"both", 0.3, 0.3, 0},
		{"both, while the processes move", 0.2, 0.3, 37},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const messages = 2000
			c := &carrier{r: rand.New(rand.NewPCG(1, 1)), loss: tt.loss, dup: tt.dup, delay: 300 * time.Millisecond}
			c.now = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
			var got []uint64
			deliver := func(_ time.Time, p []byte) { got = append(got, binary.BigEndian.Uint64(p)) }
			s := NewSender(7, c.put)
			r := NewReceiver(0, 0, c.put, deliver)
			sent, moved := uint64(0), 0
			for steps := 0; len(got) < messages; steps++ {
				if steps > 1_000_000 {
					t.Fatalf("only %d of %d messages after a million steps", len(got), messages)
				}
				for sent < messages && s.Send(c.now, binary.BigEndian.AppendUint64(nil, sent)) == nil {
					sent++
				}
				if tt.moves > 0 && len(got)/tt.moves > moved {
					if moved++; moved%2 == 0 {
						first, unacked := s.Unacked()
						s = ResumeSender(c.now, 7, first, unacked, c.put)
					} else {
						session, next := r.Next()
						r = NewReceiver(session, next, c.put, deliver)
					}
				}
				at := s.Deadline()
				i := -1
				for j := range c.flight {
					if at.IsZero() || c.flight[j].at.Before(at) {
						i, at = j, c.flight[j].at
					}
				}
				c.now = at
				if i < 0 {
					s.Advance(c.now)
					continue
				}
				e := c.flight[i]
				c.flight = slices.Delete(c.flight, i, i+1)
				var err error
				if e.ack {
					err = s.Receive(c.now, e.frame)
				} else {
					err = r.Receive(c.now, e.frame)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for i, v := range got {
				if v != uint64(i) {
					t.Fatalf("message %d is number %d", i, v)
				}
			}
		})
	}
}

func TestWindowIsBounded(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	s := NewSender(1, func(time.Time, []byte) {})
	n := 0
	for s.Send(now, make([]byte, 100)) == nil {
		n++
	}
	if n != Window {
		t.Errorf("sent %d messages, want %d", n, Window)
	}
	s = NewSender(1, func(time.Time, []byte) {})
	if err := s.Send(now, make([]byte, WindowBytes)); err != nil {
		t.Error(err)
	}
	if err := s.Send(now, make([]byte, 1)); !errors.Is(err, ErrFull) {
		t.Errorf("Send = %v, want ErrFull", err)
	}

	r := NewReceiver(0, 0, func(time.Time, []byte) {}, func(time.Time, []byte) { t.Error("delivered") })
	for i := range uint64(10000) {
		f := frame{kind: kindData, session: 1, number: i + 2, payload: []byte("x")}
		if err := r.Receive(now, appendFrame(nil, &f)); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.early) != Window {
		t.Errorf("%d messages kept, want %d", len(r.early), Window)
	}
	if _, _, beyond := r.Dropped(); beyond != 10000-Window {
		t.Errorf("beyond = %d", beyond)
	}
}

// A process of an earlier incarnation writes nothing.
func TestEarlierIncarnationIsFenced(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var got []string
	r := NewReceiver(0, 0, func(time.Time, []byte) {}, func(_ time.Time, p []byte) { got = append(got, string(p)) })
	take := func(now time.Time, f []byte) { r.Receive(now, f) }
	old, young := NewSender(1, take), NewSender(2, take)
	old.Send(now, []byte("a"))
	young.Send(now, []byte("b"))
	old.Send(now, []byte("c"))
	young.Send(now, []byte("d"))
	if want := []string{"a", "b", "d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, stale, _ := r.Dropped(); stale != 1 {
		t.Errorf("stale = %d, want 1", stale)
	}
}
