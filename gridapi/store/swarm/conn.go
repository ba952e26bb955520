package swarm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Limits of one connection: guesses, save where another document is named.
const (
	maxServe   = 64        // asks of the peer that wait; more are answered with MISS
	maxRefused = 1024      // asks refused one after another before the peer is a flood
	maxLists   = 24        // lists of the peer
	maxOut     = 512 << 10 // bytes that wait to be written before we read no more
	maxKeeps   = 16        // chunks of the peer that are being taken
	pieceSize  = 32 << 10  // bytes of a DATA that we send

	haveDelay = 50 * time.Millisecond // that a HAVE waits for others, except on the LAN
	beatEvery = 5 * time.Second       // of silence before a BEAT
	silence   = 20 * time.Second      // after which the peer is gone
	writeWait = 30 * time.Second      // that one write may take
)

// A conn is the connection to one peer, in both directions: its reader and its
// writer are goroutines of the Swarm.
type conn struct {
	s      *Swarm
	nc     net.Conn
	r      *bufio.Reader
	name   string
	dialed bool
	born   time.Time
	wake   chan struct{} // of the writer, one slot
	room   chan struct{} // of the reader, one slot
	closed chan struct{}
	once   sync.Once

	bytesIn, bytesOut atomic.Uint64
	local             atomic.Bool // of our site
	ending            atomic.Bool // the writer's next write is its last

	mu      sync.Mutex
	out     []byte              // frames to write
	serve   []ask               // what the peer asked for
	haves   map[uint32][]uint16 // to announce, by list
	soon    bool                // the announcement is armed
	request uint32              // number of our last one
	asked   map[uint32]*request
	current map[chunk.ID]uint32 // the plan's ask for it
	err     error               // why it closed

	// The Swarm's mutex guards the rest.
	site  string
	lists map[uint32][]chunk.ID // what the peer wants
	sent  map[uint32]bool       // our lists that it knows
	plan  bool                  // it is in the plan

	// The reader's own.
	refused int // asks, one after another
	keeps   int32
}

// A request is something that we asked of the peer.
type request struct {
	id   chunk.ID
	kind frameKind
	done func(sealed []byte, why code) // nil: the plan asked
}

func newConn(s *Swarm, nc net.Conn, dialed bool) *conn {
	return &conn{
		s: s, nc: nc, r: bufio.NewReaderSize(nc, 64<<10), dialed: dialed, born: time.Now(),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{}),
		haves: make(map[uint32][]uint16), asked: make(map[uint32]*request), current: make(map[chunk.ID]uint32),
		lists: make(map[uint32][]chunk.ID), sent: make(map[uint32]bool),
	}
}

// send queues a frame. It never blocks: the reader does, when too much waits.
func (c *conn) send(k frameKind, body func([]byte) []byte) {
	c.mu.Lock()
	c.out = appendFrame(c.out, k, body)
	c.mu.Unlock()
	notify(c.wake)
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// fail ends the connection for a reason that the peer is not told.
func (c *conn) fail(err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(c.closed)
		c.nc.Close()
	})
}

// refuse ends the connection within a second, and tries to tell the peer why.
func (c *conn) refuse(reason byeReason, text string) {
	c.mu.Lock()
	c.out = appendFrame(c.out, frameBye, bye{reason, text}.appendBody)
	c.mu.Unlock()
	c.ending.Store(true)
	notify(c.wake)
	time.AfterFunc(time.Second, func() { c.fail(&PeerError{Member: c.name, Reason: text}) })
}

// askPlanned asks for a chunk as the plan wants.
func (c *conn) askPlanned(id chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current[id] = c.askLocked(frameAsk, id, nil)
	c.out = appendFrame(c.out, frameAsk, ask{c.request, id}.appendBody)
	notify(c.wake)
}

// askLocked registers a request.
func (c *conn) askLocked(k frameKind, id chunk.ID, done func([]byte, code)) uint32 {
	c.request++
	c.asked[c.request] = &request{id, k, done}
	return c.request
}

// call registers a request and sends its frame.
func (c *conn) call(k frameKind, id chunk.ID, body func(n uint32) func([]byte) []byte, done func([]byte, code)) (cancel func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.askLocked(k, id, done)
	c.out = appendFrame(c.out, k, body(n))
	notify(c.wake)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r := c.asked[n]; r != nil {
			r.done = func([]byte, code) {}
		}
	}
}

// cancel withdraws an ask of the plan.
func (c *conn) cancel(id chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, is := c.current[id]; is {
		c.out = appendFrame(c.out, frameCancel, number(n).appendBody)
		notify(c.wake)
	}
}

// have queues the announcement of a chunk.
func (c *conn) have(list uint32, index uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.haves[list] = append(c.haves[list], index)
	if c.local.Load() {
		notify(c.wake)
		return
	}
	if !c.soon {
		c.soon = true
		time.AfterFunc(haveDelay, func() { notify(c.wake) })
	}
}

// write is the writer: announcements and answers first, then the next part of
// what the peer asked for.
func (c *conn) write() {
	defer c.nc.Close()
	beat := time.NewTimer(beatEvery)
	defer beat.Stop()
	stuck := time.AfterFunc(time.Hour, func() { c.fail(&PeerError{Member: c.name, Reason: "it reads nothing"}) })
	defer stuck.Stop()
	var buf, sealed, rest []byte
	for {
		var next ask
		var ready bool
		buf = buf[:0]
		last := c.ending.Load()
		c.mu.Lock()
		c.soon = false
		// What we hold, before that we want no more of a list.
		for list, index := range c.haves {
			slices.Sort(index)
			buf = appendFrame(buf, frameHave, indices{list, slices.Compact(index)}.appendBody)
			delete(c.haves, list)
		}
		buf = append(buf, c.out...)
		if c.out = c.out[:0]; cap(c.out) > maxOut {
			c.out = nil
		}
		if len(rest) == 0 && len(c.serve) > 0 {
			next, ready = c.serve[0], true
			c.serve = slices.Delete(c.serve, 0, 1)
		}
		c.mu.Unlock()
		notify(c.room)
		if ready {
			var err error
			if sealed, err = c.s.cfg.Holdings.Get(next.id, sealed[:0]); err != nil || len(sealed) == 0 || len(sealed) > chunk.MaxSize {
				c.s.count(func(n *Counters) { n.NotHeld++ })
				buf = appendFrame(buf, frameMiss, answer{next.request, codeNotHeld}.appendBody)
			} else {
				rest = sealed
				buf = appendFrame(buf, frameChunk, chunkHeader{next.request, uint32(len(sealed))}.appendBody)
			}
		}
		if n := min(len(rest), pieceSize); n > 0 {
			buf = appendFrame(buf, frameData, func(b []byte) []byte { return append(b, rest[:n]...) })
			if rest = rest[n:]; len(rest) == 0 {
				c.s.served(c, len(sealed))
			}
		}
		if len(buf) == 0 {
			select {
			case <-c.wake:
				continue
			case <-c.closed:
				return
			case <-beat.C:
				buf = appendFrame(buf, frameBeat, nil)
			}
		}
		stuck.Reset(writeWait)
		_, err := c.nc.Write(buf)
		stuck.Reset(time.Hour)
		if err != nil {
			c.fail(&PeerError{Member: c.name, Reason: "connection lost", Err: err})
			return
		}
		if last {
			c.fail(net.ErrClosed)
			return
		}
		beat.Reset(beatEvery)
	}
}

// read is the reader: it returns why the connection ended.
func (c *conn) read() error {
	gone := time.AfterFunc(silence, func() { c.fail(&PeerError{Member: c.name, Reason: "it has been silent"}) })
	defer gone.Stop()
	var body []byte
	var cur *request // whose DATA come
	var size int
	sealed := []byte(nil)
	defer func() {
		if len(sealed) > 0 {
			c.s.count(func(n *Counters) { n.Cut += uint64(len(sealed)) })
		}
	}()
	for {
		k, n, err := readHeader(c.r)
		if err != nil {
			return err
		}
		gone.Reset(silence)
		if k == frameData {
			if cur == nil || n == 0 || len(sealed)+n > size {
				return fmt.Errorf("%w: DATA that nobody asked for", errMalformed)
			}
			at := len(sealed)
			sealed = slices.Grow(sealed, n)[:at+n]
			if _, err := io.ReadFull(c.r, sealed[at:]); err != nil {
				sealed = sealed[:at]
				return err
			}
			gone.Reset(silence)
			if len(sealed) < size {
				if cur.done == nil {
					c.s.progress(c)
				}
				continue
			}
			if err := c.s.receive(c, cur, sealed); err != nil {
				return err
			}
			cur, sealed = nil, sealed[:0]
			continue
		}
		body = slices.Grow(body[:0], n)[:n]
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		if k == frameChunk {
			h, err := parseChunkHeader(body)
			if err != nil {
				return err
			}
			if cur != nil {
				return fmt.Errorf("%w: CHUNK in the middle of another", errMalformed)
			}
			if cur = c.answered(h.request, frameAsk); cur == nil {
				return fmt.Errorf("%w: CHUNK that nobody asked for", errMalformed)
			}
			size = int(h.size)
			if cur.done == nil {
				c.s.began(c, cur.id)
			}
			continue
		}
		if err := c.handle(k, body); err != nil {
			return err
		}
		if err := c.await(); err != nil {
			return err
		}
	}
}

// await waits while too much waits to be written: a peer that does not read is
// not read.
func (c *conn) await() error {
	for {
		c.mu.Lock()
		full := len(c.out) > maxOut
		c.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-c.room:
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

// answered takes a request off the list, or returns nil if there is none such.
func (c *conn) answered(n uint32, kinds ...frameKind) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.asked[n]
	if r == nil || !slices.Contains(kinds, r.kind) {
		return nil
	}
	delete(c.asked, n)
	if c.current[r.id] == n {
		delete(c.current, r.id)
	} else if r.done == nil {
		r.done = c.late(r.id)
	}
	return r
}

// late takes what the plan asked for twice.
func (c *conn) late(id chunk.ID) func([]byte, code) {
	return func(sealed []byte, why code) {
		if sealed != nil {
			c.s.store(c, id, sealed)
		}
	}
}

// handle does what a frame asks for.
func (c *conn) handle(k frameKind, body []byte) error {
	switch k {
	case frameBeat:
		if len(body) > 0 {
			return fmt.Errorf("%w: BEAT with a body", errMalformed)
		}
	case frameBye:
		x, err := parseBye(body)
		if err != nil {
			return err
		}
		return &PeerError{Member: c.name, Reason: "it said: " + cleanText(x.text)}
	case frameWant:
		w, err := parseWant(body)
		if err != nil {
			return err
		}
		return c.s.wantedBy(c, w)
	case frameHeld:
		h, err := parseHeld(body)
		if err != nil {
			return err
		}
		return c.s.heldBy(c, h)
	case frameHave, frameClaim:
		x, err := parseIndices(k, body)
		if err != nil {
			return err
		}
		return c.s.announced(c, k, x)
	case frameForget, frameEnd:
		n, err := parseNumber(k, body)
		if err != nil {
			return err
		}
		if k == frameForget {
			c.s.forgottenBy(c, uint32(n))
		} else {
			c.s.endedBy(c, uint32(n))
		}
	case frameAsk:
		a, err := parseAsk(body)
		if err != nil {
			return err
		}
		return c.queue(a)
	case frameCancel:
		n, err := parseNumber(k, body)
		if err != nil {
			return err
		}
		c.withdraw(uint32(n))
	case frameMiss:
		a, err := parseAnswer(k, body)
		if err != nil {
			return err
		}
		r := c.answered(a.request, frameAsk)
		if r == nil {
			return fmt.Errorf("%w: MISS of nothing", errMalformed)
		}
		if r.done != nil {
			r.done(nil, a.code)
		} else {
			c.s.missed(c, r.id, a.code)
		}
	case frameKeep, frameDrop:
		x, err := parseKeep(k, body)
		if err != nil {
			return err
		}
		c.keep(k, x)
	case frameKept:
		a, err := parseAnswer(k, body)
		if err != nil {
			return err
		}
		r := c.answered(a.request, frameKeep, frameDrop)
		if r == nil {
			return fmt.Errorf("%w: KEPT of nothing", errMalformed)
		}
		r.done(nil, a.code)
	case frameSample:
		x, err := parseSample(body)
		if err != nil {
			return err
		}
		sealed, err := c.s.cfg.Holdings.Get(x.id, nil)
		var show []byte
		if end := int(x.offset) + int(x.length); err == nil && end <= len(sealed) {
			show = sealed[x.offset:end]
		}
		c.send(framePart, part{x.request, show}.appendBody)
	case framePart:
		x, err := parsePart(body)
		if err != nil {
			return err
		}
		r := c.answered(x.request, frameSample)
		if r == nil {
			return fmt.Errorf("%w: PART of nothing", errMalformed)
		}
		r.done(x.bytes, codeDone)
	default:
		return fmt.Errorf("%w: frame %#x", errMalformed, byte(k))
	}
	return nil
}

// cleanText keeps what may be shown.
func cleanText(s string) string {
	return fmt.Sprintf("%q", s)
}

// queue notes an ask of the peer, or refuses it.
func (c *conn) queue(a ask) error {
	c.mu.Lock()
	if len(c.serve) < maxServe {
		c.serve = append(c.serve, a)
		c.mu.Unlock()
		c.refused = 0
		notify(c.wake)
		return nil
	}
	c.mu.Unlock()
	c.s.count(func(n *Counters) { n.Busy++ })
	if c.refused++; c.refused > maxRefused {
		c.s.count(func(n *Counters) { n.Floods++ })
		c.refuse(byeFlood, "too many asks")
		return &PeerError{Member: c.name, Reason: "it floods us with asks"}
	}
	c.send(frameMiss, answer{a.request, codeBusy}.appendBody)
	return nil
}

// withdraw takes back an ask that has not been begun.
func (c *conn) withdraw(n uint32) {
	c.mu.Lock()
	i := slices.IndexFunc(c.serve, func(a ask) bool { return a.request == n })
	if i >= 0 {
		c.serve = slices.Delete(c.serve, i, i+1)
		c.out = appendFrame(c.out, frameMiss, answer{n, codeWithdrawn}.appendBody)
	}
	c.mu.Unlock()
	if i >= 0 {
		notify(c.wake)
	}
}
