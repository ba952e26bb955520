package swarm

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A Keeper decides which chunks are kept for others. Its methods may be called
// concurrently.
type Keeper interface {
	// Admit reports whether there is room for a chunk of an object that member
	// wants kept here. It is asked before the chunk comes.
	Admit(member string, object [32]byte, id chunk.ID) bool
	// Keep notes that a chunk, which is held now, belongs to the object and
	// must not be given up. It returns once that would survive a crash.
	Keep(member string, object [32]byte, id chunk.ID) error
	// Drop notes that the chunk need not be kept for the object any more.
	Drop(member string, object [32]byte, id chunk.ID) error
}

// keep answers KEEP and DROP.
func (c *conn) keep(k frameKind, x keep) {
	reply := func(why code) {
		c.s.count(func(n *Counters) {
			if why == codeDone {
				n.Kept++
			} else {
				n.KeepsNot++
			}
		})
		c.send(frameKept, answer{x.request, why}.appendBody)
	}
	keeper := c.s.cfg.Keeper
	if keeper == nil {
		reply(codeRefused)
		return
	}
	finish := func() {
		if err := keeper.Keep(c.name, x.object, x.id); err != nil {
			c.s.log.Warn("cannot keep a chunk", "for", c.name, "chunk", x.id.String(), "error", err)
			reply(codeNoRoom)
			return
		}
		reply(codeDone)
	}
	switch {
	case k == frameDrop:
		if err := keeper.Drop(c.name, x.object, x.id); err != nil {
			reply(codeRefused)
			return
		}
		reply(codeDone)
	case !keeper.Admit(c.name, x.object, x.id):
		reply(codeNoRoom)
	case c.s.cfg.Holdings.Has(x.id):
		finish()
	case atomic.LoadInt32(&c.keeps) >= maxKeeps:
		reply(codeBusy)
	default:
		atomic.AddInt32(&c.keeps, 1)
		body := func(n uint32) func([]byte) []byte { return ask{n, x.id}.appendBody }
		c.call(frameAsk, x.id, body, func(sealed []byte, why code) {
			atomic.AddInt32(&c.keeps, -1)
			if sealed == nil {
				reply(codeNotHeld)
				return
			}
			if err := c.s.cfg.Holdings.Put(x.id, sealed); err != nil {
				c.s.log.Warn("cannot keep a chunk", "for", c.name, "chunk", x.id.String(), "error", err)
				reply(codeNoRoom)
				return
			}
			c.s.Announce(x.id)
			finish()
		})
	}
}

// Keep has a member keep a chunk for an object, and returns once the member
// would still hold it after a crash. We must hold it ourselves: the member
// takes it from us. The error is a KeepError when the member said no.
func (s *Swarm) Keep(ctx context.Context, member string, object [32]byte, id chunk.ID) error {
	_, err := s.request(ctx, member, frameKeep, id, func(n uint32) func([]byte) []byte { return keep{n, object, id}.appendBody })
	return err
}

// Drop tells a member that it need not keep a chunk for an object any more.
func (s *Swarm) Drop(ctx context.Context, member string, object [32]byte, id chunk.ID) error {
	_, err := s.request(ctx, member, frameDrop, id, func(n uint32) func([]byte) []byte { return keep{n, object, id}.appendBody })
	return err
}

// Sample returns length bytes, at most 1024, at offset of a chunk that a member
// should hold. The error is a KeepError with Absent set when the member does not
// show them.
func (s *Swarm) Sample(ctx context.Context, member string, id chunk.ID, offset, length int) ([]byte, error) {
	b, err := s.request(ctx, member, frameSample, id, func(n uint32) func([]byte) []byte {
		return sample{n, id, uint32(offset), uint32(length)}.appendBody
	})
	if err == nil && len(b) != length {
		err = &KeepError{Member: member, ID: id, Reason: "it does not show what it should hold", Absent: true}
	}
	return b, err
}

// request sends a request to a member and waits for the answer.
func (s *Swarm) request(ctx context.Context, member string, k frameKind, id chunk.ID, body func(n uint32) func([]byte) []byte) ([]byte, error) {
	c, err := s.connect(ctx, member)
	if err != nil {
		return nil, err
	}
	type reply struct {
		b   []byte
		why code
	}
	replies := make(chan reply, 1)
	cancel := c.call(k, id, body, func(b []byte, why code) { replies <- reply{slices.Clone(b), why} })
	// The connection may have ended before the call was registered.
	ended := time.NewTimer(time.Hour)
	defer ended.Stop()
	closed := c.closed
	for {
		select {
		case r := <-replies:
			if r.why == codeDone {
				return r.b, nil
			}
			return nil, &KeepError{Member: member, ID: id, Reason: r.why.String(), NoRoom: r.why == codeNoRoom, Absent: r.why == codeNotHeld, Wrong: r.why == codeWrong}
		case <-closed:
			closed = nil
			ended.Reset(time.Second)
		case <-ended.C:
			return nil, &KeepError{Member: member, ID: id, Reason: codeLost.String()}
		case <-ctx.Done():
			cancel()
			return nil, ctx.Err()
		}
	}
}

// connect returns the connection with a member, which it makes.
func (s *Swarm) connect(ctx context.Context, member string) (*conn, error) {
	for {
		now := time.Now()
		s.mu.Lock()
		if c := s.conns[member]; c != nil {
			s.mu.Unlock()
			return c, nil
		}
		if s.closing {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		d := s.dial(now, member)
		under, done, failed, after := d.under, d.done, d.failed, d.after
		s.mu.Unlock()
		if !under && failed > 0 {
			return nil, &PeerError{Member: member, Reason: "cannot be reached"}
		}
		if !under {
			// It was dialled just now, or is banned: not again at once.
			pause := time.NewTimer(max(time.Until(after), 100*time.Millisecond))
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return nil, ctx.Err()
			}
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		failed = d.failed
		s.mu.Unlock()
		if failed > 0 {
			return nil, &PeerError{Member: member, Reason: "cannot be reached"}
		}
	}
}

// Read returns a chunk that a member holds, without keeping it. The error is a
// KeepError with Absent set when the member does not hold it, and with Wrong set
// when it sends something else.
func (s *Swarm) Read(ctx context.Context, member string, id chunk.ID) ([]byte, error) {
	return s.request(ctx, member, frameAsk, id, func(n uint32) func([]byte) []byte { return ask{n, id}.appendBody })
}
