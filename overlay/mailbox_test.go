package overlay

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// jobKey is the key of the tests' job.
func jobKey(t testing.TB) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(identity(t, 500).Seed())
}

// A process is a rank of a job on one node.
type process struct {
	object  Object
	mail    *Mailbox
	release func()
}

// spawn starts a rank on node i, or goes on with it there.
func (c *crowd) spawn(i int, rank uint64, before *Object, state *MailboxState) *process {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	n, owner := c.nodes[i], jobKey(c.t)
	expected := uint64(0)
	if before != nil {
		expected = before.Incarnation
	}
	mail, err := n.OpenMailbox(ctx, MailboxConfig{Owner: owner, Rank: rank, State: state})
	if err != nil {
		c.t.Fatal(err)
	}
	o, err := n.Objects().Swap(ctx, owner, expected, Object{Rank: rank})
	if err != nil {
		c.t.Fatal(err)
	}
	_, release, err := n.Objects().Hold(ctx, o)
	if err != nil {
		c.t.Fatal(err)
	}
	return &process{o, mail, release}
}

// talk has p send messages from first to last to rank, one each pause.
func (p *process) talk(t *testing.T, to uint64, first, last int, size int, pause time.Duration) {
	for i := first; i <= last; i++ {
		b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+size), uint32(i))
		if err := p.mail.Send(t.Context(), to, append(b, make([]byte, size)...)); err != nil {
			t.Errorf("message %d: %v", i, err)
			return
		}
		time.Sleep(pause)
	}
}

// expect receives messages from first to last of rank, and nothing else.
func (p *process) expect(t *testing.T, from uint64, first, last int) {
	for i := first; i <= last; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		m, err := p.mail.Receive(ctx)
		cancel()
		if err != nil {
			t.Errorf("message %d of rank %d: %v\n%+v", i, from, err, p.mail.r.node.Status().Routing.Counters)
			return
		}
		if got := int(binary.BigEndian.Uint32(m.Payload)); m.From != from || got != i {
			t.Errorf("message %d of rank %d, want %d of %d", got, m.From, i, from)
			return
		}
	}
}

// The nodes that keep a location object die while two processes talk, and one
// of the processes moves: no message is lost, none comes twice, and all come in
// order.
func TestMailSurvives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 7, nil, netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.01})
		keys := []Key{ProcessKey(jobKey(t).Public().(ed25519.PublicKey), 0), ProcessKey(jobKey(t).Public().(ed25519.PublicKey), 1)}
		// Neither process runs where its object is kept.
		var free []int
		for i := range c.nodes {
			if i != c.nearest(keys[0]) && i != c.nearest(keys[1]) {
				free = append(free, i)
			}
		}
		a, b := c.spawn(free[0], 0, nil, nil), c.spawn(free[1], 1, nil, nil)
		const first, second, third = 100, 200, 300
		go a.talk(t, 1, 1, second, 40, 20*time.Millisecond)
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.expect(t, 1, 1, third)
		}()
		go func() {
			time.Sleep(2 * time.Second)
			c.kill(c.nearest(keys[1]))
		}()
		b.talk(t, 0, 1, first, 2000, 10*time.Millisecond)
		b.expect(t, 0, 1, first)

		// Rank 1 moves, with what has not arrived on either side.
		ctx := t.Context()
		b.release()
		state, err := b.mail.Suspend(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.mail.Receive(ctx); !errors.Is(err, ErrMailboxClosed) {
			t.Errorf("a suspended mailbox: %v", err)
		}
		time.Sleep(3 * time.Second)
		moved := c.spawn(free[2], 1, &b.object, state)
		go moved.talk(t, 0, first+1, second, 20_000, 10*time.Millisecond)
		moved.expect(t, 0, first+1, second)
		time.Sleep(5 * time.Second)
		moved.talk(t, 0, second+1, third, 10, time.Millisecond)
		<-done
		for _, p := range []*process{a, moved} {
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			if m, err := p.mail.Receive(short); err == nil {
				t.Errorf("one more: %d of rank %d", binary.BigEndian.Uint32(m.Payload), m.From)
			}
			cancel()
		}
		// The object is where it belongs, with three keepers left.
		o, err := c.nodes[free[3]].Objects().Get(ctx, keys[1])
		if err != nil || o.Holder != c.nodes[free[2]].PeerID() || o.Incarnation != 2 || o.Remaining == 0 {
			t.Errorf("the object = %+v, %v", o, err)
		}
	})
}

// A reader that is too slow costs a bounded number of messages and bytes: what
// finds no room is counted, sent again, and arrives once the reader reads.
func TestMailOverflow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 3, nil, access)
		a, b := c.spawn(0, 0, nil, nil), c.spawn(1, 1, nil, nil)
		const last = 1500
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			a.talk(t, 1, 1, last, 40, time.Millisecond)
		}()
		time.Sleep(20 * time.Second) // nobody reads
		waiting := make(chan [2]int, 1)
		if err := c.nodes[1].router.do(t.Context(), func(time.Time) {
			b.mail.mu.Lock()
			waiting <- [2]int{len(b.mail.waiting), b.mail.bytes}
			b.mail.mu.Unlock()
		}); err != nil {
			t.Fatal(err)
		}
		if w := <-waiting; w[0] > maxMailWaiting || w[1] > maxMailWaitingBytes+MaxMail {
			t.Errorf("%d messages of %d bytes wait", w[0], w[1])
		}
		if c.nodes[1].Status().Routing.Counters.MailboxFull == 0 {
			t.Error("nothing is counted")
		}
		b.expect(t, 0, 1, last)
		<-sent
	})
}

// What two coordinators want at the same time, one gets.
func TestObjects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 6, nil, access)
		ctx, owner := t.Context(), jobKey(t)
		a, b := c.nodes[0].Objects(), c.nodes[1].Objects()
		o, err := a.Create(ctx, owner, Object{Rank: 7, Data: []byte("first"), Lease: 6 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		var conflict *ConflictError
		if _, err := b.Create(ctx, owner, Object{Rank: 7}); !errors.As(err, &conflict) || conflict.Current.Holder != c.nodes[0].PeerID() {
			t.Errorf("created twice: %v", err)
		}
		lost, _, err := a.Hold(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if got, err := b.Get(ctx, o.Key()); err != nil || got.Remaining == 0 || string(got.Data) != "first" {
			t.Errorf("a held object after five leases: %+v, %v", got, err)
		}
		changes, err := c.nodes[2].Objects().Watch(ctx, o.Key())
		if err != nil {
			t.Fatal(err)
		}
		if got := <-changes; got.Incarnation != 1 {
			t.Errorf("watch begins with %+v", got)
		}
		// Two coordinators revive it.
		results := make(chan error, 2)
		for i, s := range []*Objects{a, b} {
			go func() {
				_, err := s.Swap(ctx, owner, o.Incarnation, Object{Rank: 7, Holder: c.nodes[3].PeerID(), Epoch: uint32(i)})
				results <- err
			}()
		}
		one, other := <-results, <-results
		if (one == nil) == (other == nil) {
			t.Errorf("two swaps: %v, %v; want one to win", one, other)
		}
		if got := <-lost; got.Holder != c.nodes[3].PeerID() {
			t.Errorf("the old holder hears of %+v", got)
		}
		if got := <-changes; got.Incarnation != 2 {
			t.Errorf("watch goes on with %+v", got)
		}
		if err := b.Delete(ctx, owner, 7, 1); !errors.As(err, &conflict) {
			t.Errorf("delete of an old incarnation: %v", err)
		}
		if err := b.Delete(ctx, owner, 7, 2); err != nil {
			t.Error(err)
		}
		if _, err := a.Get(ctx, o.Key()); !errors.Is(err, ErrObjectNotFound) {
			t.Errorf("a deleted object: %v", err)
		}
		if again, err := a.Create(ctx, owner, Object{Rank: 7}); err != nil || again.Incarnation != 4 {
			t.Errorf("created anew: %+v, %v", again, err)
		}
	})
}

// Traffic of each pattern is one hop within two seconds, and no node has more
// sessions of its own than it may.
func TestShortcuts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const size, sessions, shortcuts = 9, 3, 4
		c := newCrowd(t, size, func(_ int, cfg *Config) {
			cfg.Routing.MaxSessions, cfg.Routing.MaxShortcuts = sessions, shortcuts
		}, access)
		var ranks []*process
		for i := range size {
			ranks = append(ranks, c.spawn(i, uint64(i), nil, nil))
		}
		within := func() {
			t.Helper()
			for i, n := range c.nodes {
				if s := n.Status().Routing; s.OwnSessions > sessions || s.Shortcuts > shortcuts {
					t.Errorf("node %d has %d sessions and %d shortcuts", i, s.OwnSessions, s.Shortcuts)
				}
			}
		}
		// oneHop reports whether node i has a session with node j.
		oneHop := func(i, j int) bool {
			for _, s := range c.nodes[i].Status().Routing.Sessions {
				if s.Peer == c.nodes[j].PeerID() {
					return true
				}
			}
			return false
		}
		for _, tt := range []struct {
			name  string
			pairs [][2]int
		}{
			{"unicast", [][2]int{{0, 7}}},
			{"broadcast", [][2]int{{3, 1}, {3, 4}, {3, 6}, {3, 8}}},
			{"barrier", [][2]int{{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {4, 6}, {0, 4}, {0, 8}}},
		} {
			begun := time.Now()
			for time.Since(begun) < 2*time.Second {
				for _, p := range tt.pairs {
					if err := ranks[p[0]].mail.Send(t.Context(), uint64(p[1]), []byte(tt.name)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(100 * time.Millisecond)
				within()
			}
			time.Sleep(houseEvery)
			for _, p := range tt.pairs {
				if !oneHop(p[0], p[1]) {
					t.Errorf("%s: from %d to %d takes several hops after 2 s\n%+v", tt.name, p[0], p[1], c.nodes[p[0]].Status().Routing.Counters.Shortcuts)
				}
			}
		}
		time.Sleep(40 * time.Second)
		for i, n := range c.nodes {
			if s := n.Status().Routing; s.Shortcuts != 0 {
				t.Errorf("node %d keeps %d shortcuts without traffic", i, s.Shortcuts)
			}
		}
	})
}

// A sealed frame opens for the job and the process that it is for, and nobody
// else.
func TestSealer(t *testing.T) {
	mine, err := newSealer(jobKey(t))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(ed25519.NewKeyFromSeed(identity(t, 501).Seed()))
	if err != nil {
		t.Fatal(err)
	}
	to, wrong := Key{1}, Key{2}
	b := mine.seal(to, 5, []byte("frame"))
	if from, frame, err := mine.open(to, b); err != nil || from != 5 || string(frame) != "frame" {
		t.Errorf("opened %d, %q, %v", from, frame, err)
	}
	for _, tt := range []struct {
		name   string
		sealer sealer
		to     Key
		b      []byte
	}{
		{"another job", other, to, b},
		{"another process", mine, wrong, b},
		{"a changed byte", mine, to, append(append([]byte{}, b[:len(b)-1]...), b[len(b)-1]^1)},
	} {
		if _, _, err := tt.sealer.open(tt.to, tt.b); !errors.Is(err, errSeal) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for n := range len(b) {
		if _, _, err := mine.open(to, b[:n]); !errors.Is(err, errSeal) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}

func TestFragments(t *testing.T) {
	for _, size := range []int{0, 1, maxFragment, maxFragment + 1, 3 * maxFragment} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			list := fragment(make([]byte, size))
			total := 0
			for i, f := range list {
				total += len(f) - 1
				if last := i == len(list)-1; (f[0] == fragmentLast) != last || len(f) > maxFragment+1 {
					t.Errorf("fragment %d of %d: %d, %d bytes", i, len(list), f[0], len(f))
				}
			}
			if total != size || len(list) != max(1, (size+maxFragment-1)/maxFragment) {
				t.Errorf("%d bytes in %d fragments", total, len(list))
			}
		})
	}
}
