package swarm

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A simLink carries one piece at a time.
type simLink struct {
	rate  float64 // bytes a second; zero: no limit
	free  time.Time
	bytes int64
}

// pass returns when n bytes that are ready now have passed.
func (l *simLink) pass(now time.Time, n int) time.Time {
	l.bytes += int64(n)
	if l.rate == 0 {
		return now
	}
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * 1e9))
	return l.free
}

// A simSite is a home: its uplink and its downlink, behind which its members
// share a LAN.
type simSite struct {
	name     string
	up, down simLink
	delay    time.Duration // to the middle of the Internet
}

// A simNet connects members by connections of limited rate, in virtual time.
type simNet struct {
	mu      sync.Mutex
	sites   map[string]*simSite
	members []Member
	nodes   map[string]*simNode
}

type simNode struct {
	name  string
	site  *simSite
	ln    *simListener
	conns map[*simConn]struct{}
	dead  bool
	deaf  bool // nothing reaches it or comes from it, and nobody is told
}

func newSimNet() *simNet {
	return &simNet{sites: make(map[string]*simSite), nodes: make(map[string]*simNode)}
}

func (n *simNet) site(name string, up, down float64, delay time.Duration) *simSite {
	s := &simSite{name: name, up: simLink{rate: up}, down: simLink{rate: down}, delay: delay}
	n.sites[name] = s
	return s
}

func (n *simNet) node(name, site string) *simNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := &simNode{name: name, site: n.sites[site], conns: make(map[*simConn]struct{})}
	x.ln = &simListener{conns: make(chan net.Conn, 64), closed: make(chan struct{})}
	n.nodes[name] = x
	n.members = append(n.members[:len(n.members):len(n.members)], Member{name, site})
	return x
}

func (n *simNet) all() []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.members
}

// dial returns the dial function of a node.
func (n *simNet) dial(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		n.mu.Lock()
		a, b := n.nodes[from], n.nodes[to]
		n.mu.Unlock()
		if a.dead {
			return nil, net.ErrClosed
		}
		if b == nil || a.deaf || b.deaf {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if a.site != b.site {
			time.Sleep(2 * (a.site.delay + b.site.delay))
		}
		x, y := &simConn{n: n, node: a}, &simConn{n: n, node: b}
		x.peer, y.peer = y, x
		for _, c := range []*simConn{x, y} {
			c.cond = sync.NewCond(&n.mu)
			c.queue = make(chan simPiece, 256)
			go c.carry()
		}
		n.mu.Lock()
		a.conns[x], b.conns[y] = struct{}{}, struct{}{}
		n.mu.Unlock()
		select {
		case b.ln.conns <- y:
			return x, nil
		case <-b.ln.closed:
			x.Close()
			return nil, errors.New("refused")
		}
	}
}

// kill breaks all connections of a node, as kill -9 does.
func (n *simNet) kill(name string) {
	n.mu.Lock()
	x := n.nodes[name]
	conns := x.conns
	x.dead = true
	x.conns = make(map[*simConn]struct{})
	n.mu.Unlock()
	x.ln.Close()
	for c := range conns {
		c.Close()
	}
}

// end breaks everything and waits until what is on its way has arrived.
func (n *simNet) end() {
	for _, m := range n.all() {
		n.kill(m.Name)
	}
	time.Sleep(3 * time.Minute)
}

// deafen cuts a node off without telling anybody, as a laptop that sleeps.
func (n *simNet) deafen(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[name].deaf = true
}

type simListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *simListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *simListener) Addr() net.Addr { return simAddr("sim") }

type simAddr string

func (a simAddr) Network() string { return "sim" }
func (a simAddr) String() string  { return string(a) }

type simPiece struct {
	b    []byte // nil: the end
	sent time.Time
}

const (
	simPieceSize = 16 << 10
	simWindow    = 128 << 10 // bytes on their way and unread, of one direction
)

// A simConn is one end. The net's mutex guards it.
type simConn struct {
	n        *simNet
	node     *simNode
	peer     *simConn
	cond     *sync.Cond
	queue    chan simPiece // what we sent
	buf      []byte        // what we may read
	inFlight int           // of what we sent
	ended    bool          // the peer has ended
	closed   bool
}

func (c *simConn) Write(b []byte) (int, error) {
	done := 0
	for len(b) > 0 {
		k := min(len(b), simPieceSize)
		c.n.mu.Lock()
		for c.inFlight+k > simWindow && !c.closed && !c.peer.closed {
			c.cond.Wait()
		}
		if c.closed || c.peer.closed {
			c.n.mu.Unlock()
			return done, net.ErrClosed
		}
		c.inFlight += k
		at := time.Now()
		if c.node.site != c.peer.node.site {
			at = c.node.site.up.pass(at, k)
		}
		c.n.mu.Unlock()
		c.queue <- simPiece{append([]byte(nil), b[:k]...), at}
		b, done = b[k:], done+k
	}
	return done, nil
}

// carry brings what c sent to its peer.
func (c *simConn) carry() {
	p := c.peer
	for x := range c.queue {
		time.Sleep(time.Until(x.sent))
		c.n.mu.Lock()
		deaf := c.node.deaf || p.node.deaf
		if x.b == nil {
			if !deaf {
				p.ended = true
				p.cond.Broadcast()
			}
			c.n.mu.Unlock()
			return
		}
		var arrives time.Time
		if !deaf && c.node.site != p.node.site {
			c.n.mu.Unlock()
			time.Sleep(time.Until(x.sent.Add(c.node.site.delay + p.node.site.delay)))
			c.n.mu.Lock()
			arrives = p.node.site.down.pass(time.Now(), len(x.b))
		}
		c.n.mu.Unlock()
		if !arrives.IsZero() {
			time.Sleep(time.Until(arrives))
		}
		c.n.mu.Lock()
		if !deaf {
			p.buf = append(p.buf, x.b...)
			p.cond.Broadcast()
		}
		c.n.mu.Unlock()
	}
}

func (c *simConn) Read(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for len(c.buf) == 0 {
		if c.closed {
			return 0, net.ErrClosed
		}
		if c.ended {
			return 0, io.EOF
		}
		c.cond.Wait()
	}
	k := copy(b, c.buf)
	c.buf = c.buf[k:]
	c.peer.inFlight -= k
	c.peer.cond.Broadcast()
	return k, nil
}

func (c *simConn) Close() error {
	c.n.mu.Lock()
	if c.closed {
		c.n.mu.Unlock()
		return nil
	}
	c.closed = true
	c.cond.Broadcast()
	delete(c.node.conns, c)
	c.n.mu.Unlock()
	go func() {
		c.queue <- simPiece{nil, time.Now()}
	}()
	return nil
}

func (c *simConn) LocalAddr() net.Addr              { return simAddr(c.node.name) }
func (c *simConn) RemoteAddr() net.Addr             { return simAddr(c.peer.node.name) }
func (c *simConn) SetDeadline(time.Time) error      { return nil }
func (c *simConn) SetReadDeadline(time.Time) error  { return nil }
func (c *simConn) SetWriteDeadline(time.Time) error { return nil }

// memory holds chunks. Equal ones of all nodes share their bytes.
type memory struct {
	mu    sync.Mutex
	all   *content
	held  map[chunk.ID][]byte
	wrong map[chunk.ID][]byte // given out instead
	full  bool
	puts  int
}

// content is every chunk that a test knows.
type content struct {
	mu     sync.Mutex
	chunks map[chunk.ID][]byte
}

func newContent() *content { return &content{chunks: make(map[chunk.ID][]byte)} }

func (x *content) add(b []byte) chunk.ID {
	id := chunk.Sum(b)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.chunks[id] = b
	return id
}

func (x *content) holdings(ids ...chunk.ID) *memory {
	m := &memory{all: x, held: make(map[chunk.ID][]byte), wrong: make(map[chunk.ID][]byte)}
	for _, id := range ids {
		m.held[id] = x.chunks[id]
	}
	return m
}

func (m *memory) Has(id chunk.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[id] != nil
}

func (m *memory) Get(id chunk.ID, buf []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.held[id]
	if w := m.wrong[id]; w != nil {
		b = w
	}
	if b == nil {
		return nil, chunk.ErrNotHeld
	}
	return append(buf[:0], b...), nil
}

var errFull = errors.New("disk full")

func (m *memory) Put(id chunk.ID, sealed []byte) error {
	if err := chunk.Verify(id, sealed); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return errFull
	}
	m.all.mu.Lock()
	b := m.all.chunks[id]
	m.all.mu.Unlock()
	if b == nil {
		b = append([]byte(nil), sealed...)
	}
	m.puts++
	m.held[id] = b
	return nil
}

func (m *memory) drop(id chunk.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, id)
}

func (m *memory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

// start runs a Swarm of a node.
func (n *simNet) start(t testing.TB, name, site string, m *memory, change ...func(*Config)) *Swarm {
	x := n.node(name, site)
	cfg := Config{Self: name, Holdings: m, Dial: n.dial(name), Members: n.all}
	for _, do := range change {
		do(&cfg)
	}
	s := New(cfg)
	go s.Serve(x.ln)
	return s
}
