package mpi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MeshConfig says how a rank reaches the others.
type MeshConfig struct {
	// Job is the same at all ranks of a job and at no others.
	Job [32]byte

	// Epoch counts the job's restarts, and is the same at all ranks; what belongs to
	// another is refused. Incarnation counts those of this rank: once it was lost, the others refuse it.
	Epoch, Incarnation uint32

	Rank, Size int

	// Listener takes the connections of higher ranks. The mesh owns it. Dial
	// connects to a lower rank; it may be tried again and again.
	Listener net.Listener
	Dial     func(ctx context.Context, rank int) (net.Conn, error)

	// Verify says whether a connection that was accepted comes from a rank: with the
	// overlay, from the node that runs it. Nil believes what it says.
	Verify func(conn net.Conn, rank int) error

	// Silence is the longest time without a word from a rank before it is held
	// for dead. Zero means 30 s; a negative value waits for ever, or for Process.Fail.
	Silence time.Duration
}

const (
	framePrefix  = 12 // length, epoch, incarnation
	smallFrame   = 8 << 10
	connBuffer   = 16 << 10
	helloTimeout = 10 * time.Second
	maxHellos    = 64 // connections that have not said who they are
)

// MeshCounters count since Join. Each limit has one.
type MeshCounters struct {
	Refused uint64 `json:"refused"` // connections that did not belong here
	Fenced  uint64 `json:"fenced"`  // of these, of an incarnation that was lost
	Hellos  uint64 `json:"hellos"`  // connections turned away, since too many had not said who they are
	Stale   uint64 `json:"stale"`   // frames of another epoch or incarnation
	Silent  uint64 `json:"silent"`  // ranks that fell silent
}

// A Mesh is an Endpoint over one connection with each other rank.
type Mesh struct {
	cfg   MeshConfig
	peers []meshPeer
	wg    sync.WaitGroup
	done  chan struct{}
	once  sync.Once
	hello chan struct{} // a place for each connection that has not said who it is

	mu      sync.Mutex
	started bool
	joined  chan struct{} // signalled at each connection
	refused, fenced, hellos,
	stale, silent atomic.Uint64
}

type meshPeer struct {
	mu          sync.Mutex // guards writing
	out         []byte
	conn        net.Conn // set before Start, under Mesh.mu
	tcp         bool
	incarnation uint32
	heard, said atomic.Int64 // when, in ns since the epoch of Unix
}

// Join connects with all other ranks of a job and returns when all are there. When
// ctx ends first its error names the missing ones.
func Join(ctx context.Context, cfg MeshConfig) (*Mesh, error) {
	if cfg.Size < 1 || cfg.Rank < 0 || cfg.Rank >= cfg.Size {
		return nil, fault(ErrRank, "Join", fmt.Errorf("rank %d of %d", cfg.Rank, cfg.Size))
	}
	if cfg.Silence == 0 {
		cfg.Silence = 30 * time.Second
	}
	m := &Mesh{cfg: cfg, peers: make([]meshPeer, cfg.Size), done: make(chan struct{}), hello: make(chan struct{}, maxHellos), joined: make(chan struct{}, 1)}
	if cfg.Listener != nil {
		m.wg.Go(m.accept)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var dials sync.WaitGroup
	for r := range cfg.Rank {
		dials.Go(func() {
			if err := m.dial(ctx, r); err != nil {
				cancel(err)
			}
		})
	}
	for {
		missing := m.missing()
		if len(missing) == 0 {
			break
		}
		select {
		case <-m.joined:
			continue
		case <-ctx.Done():
		}
		dials.Wait()
		m.Close()
		class := ErrOther
		if errors.Is(context.Cause(ctx), answerFenced) {
			class = ErrFenced
		}
		return nil, fault(class, "Join", fmt.Errorf("ranks %v are missing: %w", missing, context.Cause(ctx)))
	}
	dials.Wait()
	return m, nil
}

func (m *Mesh) missing() (ranks []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range m.peers {
		if r != m.cfg.Rank && m.peers[r].conn == nil {
			ranks = append(ranks, r)
		}
	}
	return ranks
}

// dial connects to a lower rank. It tries again until ctx ends, unless it is refused.
func (m *Mesh) dial(ctx context.Context, rank int) error {
	pause := 20 * time.Millisecond
	for {
		conn, err := m.cfg.Dial(ctx, rank)
		if err == nil {
			if err = m.greet(ctx, conn, rank); err == nil {
				return nil
			}
			conn.Close()
			var a answer
			if errors.As(err, &a) {
				return fmt.Errorf("rank %d: %w", rank, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rank %d: %w", rank, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// greet says hello on a connection that we opened.
func (m *Mesh) greet(ctx context.Context, conn net.Conn, rank int) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	h := hello{job: m.cfg.Job, epoch: m.cfg.Epoch, size: uint32(m.cfg.Size), from: uint32(m.cfg.Rank), to: uint32(rank), incarnation: m.cfg.Incarnation}
	if _, err := conn.Write(appendHello(nil, h)); err != nil {
		return err
	}
	var b [welcomeLen]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return err
	}
	if a := answer(b[0]); a != answerWelcome {
		return a
	}
	if !stop() {
		return ctx.Err()
	}
	m.admit(conn, rank, binary.BigEndian.Uint32(b[1:]))
	return nil
}

// admit makes conn the connection with rank. It refuses if there is one already, or
// the mesh has started.
func (m *Mesh) admit(conn net.Conn, rank int, incarnation uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.peers[rank]
	select {
	case <-m.done:
		return false
	default:
	}
	if p.conn != nil && (m.started || incarnation < p.incarnation) {
		return false
	}
	if p.conn != nil {
		p.conn.Close()
	}
	_, p.tcp = conn.(*net.TCPConn)
	p.conn, p.incarnation = conn, incarnation
	select {
	case m.joined <- struct{}{}:
	default:
	}
	return true
}

// accept takes connections until the listener ends, also when all are there: to
// tell those who are late why they are not wanted.
func (m *Mesh) accept() {
	for {
		conn, err := m.cfg.Listener.Accept()
		if err != nil {
			return
		}
		select {
		case m.hello <- struct{}{}:
		default:
			m.hellos.Add(1)
			conn.Close()
			continue
		}
		m.wg.Go(func() {
			defer func() { <-m.hello }()
			if !m.answer(conn) {
				conn.Close()
			}
		})
	}
}

// answer reads a hello and answers it; it reports whether the connection stays.
func (m *Mesh) answer(conn net.Conn) bool {
	over := make(chan struct{})
	defer close(over)
	m.wg.Go(func() {
		select {
		case <-m.done:
			conn.Close()
		case <-over:
		}
	})
	conn.SetDeadline(time.Now().Add(helloTimeout))
	var b [helloLen]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return false
	}
	h, err := parseHello(b[:])
	if err != nil {
		m.refused.Add(1)
		return false
	}
	a := m.judge(conn, h)
	if a != answerWelcome {
		m.refused.Add(1)
		if a == answerFenced {
			m.fenced.Add(1)
		}
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{byte(a)}, m.cfg.Incarnation)); err != nil || a != answerWelcome {
		return false
	}
	conn.SetDeadline(time.Time{})
	return m.admit(conn, int(h.from), h.incarnation)
}

func (m *Mesh) judge(conn net.Conn, h hello) answer {
	switch {
	case h.job != m.cfg.Job || h.size != uint32(m.cfg.Size):
		return answerJob
	case h.epoch != m.cfg.Epoch:
		return answerEpoch
	case h.to != uint32(m.cfg.Rank) || h.from >= h.size || h.from <= h.to:
		return answerRank
	case m.cfg.Verify != nil && m.cfg.Verify(conn, int(h.from)) != nil:
		return answerRank
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := &m.peers[h.from]; p.conn != nil && (m.started || h.incarnation < p.incarnation) {
		return answerFenced
	}
	return answerWelcome
}

// Counters returns what happened so far.
func (m *Mesh) Counters() MeshCounters {
	return MeshCounters{m.refused.Load(), m.fenced.Load(), m.hellos.Load(), m.stale.Load(), m.silent.Load()}
}

// Rank and Size tell the place of this rank.
func (m *Mesh) Rank() int { return m.cfg.Rank }
func (m *Mesh) Size() int { return m.cfg.Size }

// Start begins to read.
func (m *Mesh) Start(r Receiver) {
	m.mu.Lock()
	m.started = true
	m.mu.Unlock()
	now := time.Now().UnixNano()
	for i := range m.peers {
		if i == m.cfg.Rank {
			continue
		}
		m.peers[i].heard.Store(now)
		m.peers[i].said.Store(now)
		m.wg.Go(func() { m.read(i, r) })
	}
	if m.cfg.Silence > 0 && m.cfg.Size > 1 {
		m.wg.Go(m.watch)
	}
}

// watch says a word to ranks to which nothing was said, and cuts silent ones.
func (m *Mesh) watch() {
	tick := time.NewTicker(m.cfg.Silence / 4)
	defer tick.Stop()
	for {
		select {
		case <-m.done:
			return
		case <-tick.C:
		}
		now := time.Now().UnixNano()
		for i := range m.peers {
			p := &m.peers[i]
			if i == m.cfg.Rank {
				continue
			}
			if now-p.heard.Load() > int64(m.cfg.Silence) {
				m.silent.Add(1)
				p.heard.Store(now)
				m.Drop(i)
				continue
			}
			if now-p.said.Load() >= int64(m.cfg.Silence/4) && p.mu.TryLock() {
				m.wg.Go(func() { // a write may wait
					defer p.mu.Unlock()
					m.write(p, nil, nil)
				})
			}
		}
	}
}

// read hands over the frames of one rank until its connection ends.
func (m *Mesh) read(rank int, recv Receiver) {
	p := &m.peers[rank]
	err := m.readFrames(p, rank, recv)
	p.conn.Close()
	if err == io.EOF {
		err = errors.New("mpi: it closed the connection")
	}
	recv.Lost(rank, err)
}

func (m *Mesh) readFrames(p *meshPeer, rank int, recv Receiver) error {
	r := bufio.NewReaderSize(p.conn, connBuffer)
	var head [HeaderLen]byte
	for {
		b, err := r.Peek(framePrefix)
		if err != nil {
			return err
		}
		p.heard.Store(time.Now().UnixNano())
		n := binary.BigEndian.Uint32(b)
		if binary.BigEndian.Uint32(b[4:]) != m.cfg.Epoch || binary.BigEndian.Uint32(b[8:]) != p.incarnation {
			m.stale.Add(1)
			return fmt.Errorf("%w: a frame of another epoch or incarnation", errMalformed)
		}
		if n == 0 { // a sign of life
			r.Discard(framePrefix)
			continue
		}
		if n < HeaderLen || n > HeaderLen+MaxFrame {
			return fmt.Errorf("%w: a frame of %d bytes", errMalformed, n)
		}
		if n <= smallFrame {
			if b, err = r.Peek(framePrefix + int(n)); err != nil {
				return err
			}
			if err := recv.Frame(rank, b[framePrefix:framePrefix+HeaderLen], b[framePrefix+HeaderLen:]); err != nil {
				return err
			}
			r.Discard(framePrefix + int(n))
			continue
		}
		r.Discard(framePrefix)
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		dst, err := recv.Begin(rank, head[:], int(n)-HeaderLen)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(r, dst); err != nil {
			return err
		}
		recv.End(rank)
	}
}

// Send writes one frame.
func (m *Mesh) Send(to int, head, body []byte) error {
	p := &m.peers[to]
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.write(p, head, body)
}

// write writes a frame, or a sign of life if head is nil. p.mu is held.
func (m *Mesh) write(p *meshPeer, head, body []byte) error {
	p.said.Store(time.Now().UnixNano())
	b := binary.BigEndian.AppendUint32(p.out[:0], uint32(len(head)+len(body)))
	b = binary.BigEndian.AppendUint32(b, m.cfg.Epoch)
	b = binary.BigEndian.AppendUint32(b, m.cfg.Incarnation)
	b = append(b, head...)
	together := EagerLimit // of other connections a write may be a packet
	if p.tcp {
		together = smallFrame
	}
	if len(body) <= together {
		b = append(b, body...)
		p.out = b
		_, err := p.conn.Write(b)
		return err
	}
	p.out = b
	_, err := (&net.Buffers{b, body}).WriteTo(p.conn)
	return err
}

// Drop cuts the connection with a rank.
func (m *Mesh) Drop(rank int) {
	if rank == m.cfg.Rank {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.peers[rank].conn; c != nil {
		c.Close()
	}
}

// Close cuts all connections and closes the listener.
func (m *Mesh) Close() error {
	m.once.Do(func() {
		m.mu.Lock()
		close(m.done)
		m.mu.Unlock()
		if m.cfg.Listener != nil {
			m.cfg.Listener.Close()
		}
		for r := range m.peers {
			m.Drop(r)
		}
	})
	m.wg.Wait()
	return nil
}
