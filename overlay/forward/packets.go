package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxSources is the default of Packets.Max, and sourceIdle that of
	// Packets.Idle: what RFC 4787, REQ-5, asks a NAT for.
	maxSources = 1024
	sourceIdle = 2 * time.Minute
	// sourceQueue bounds the packets of one source that wait for the dial.
	sourceQueue = 64
	// maxPacket is the largest packet of IPv4.
	maxPacket = 65_507
)

// Packets passes packets on, with a socket of its own for each source, by which
// answers find back.
type Packets struct {
	Conn net.PacketConn

	// Dial opens a socket connected to where the packets of a source go.
	Dial func(ctx context.Context, from net.Addr) (net.Conn, error)

	// Idle is how long a source is remembered without a packet in either
	// direction. Zero means 2 min.
	Idle time.Duration

	// Max bounds the sources at once. The packets of others are dropped. Zero
	// means 1024.
	Max int

	// Logger is told of sources that could not be served. Nil: nobody.
	Logger *slog.Logger

	Counters Counters
}

// A source is where packets come from.
type source struct {
	queue chan []byte
	last  atomic.Int64 // when a packet last went either way, in ns
}

// Serve passes packets on until ctx ends or the socket is closed, which it does
// itself.
func (p *Packets) Serve(ctx context.Context) error {
	log := p.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit, idle := p.Max, p.Idle
	if limit == 0 {
		limit = maxSources
	}
	if idle == 0 {
		idle = sourceIdle
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer p.Conn.Close()
	stop := context.AfterFunc(ctx, func() { p.Conn.Close() })
	defer stop()

	var mu sync.Mutex
	sources := make(map[string]*source)
	buf := make([]byte, maxPacket)
	for {
		n, from, err := p.Conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			continue // an answer that nobody took, which the kernel tells us of
		}
		key := from.String()
		mu.Lock()
		s := sources[key]
		if s == nil {
			if len(sources) >= limit {
				mu.Unlock()
				p.Counters.Dropped.Add(1)
				continue
			}
			s = &source{queue: make(chan []byte, sourceQueue)}
			sources[key] = s
			p.Counters.Taken.Add(1)
			running.Go(func() {
				p.Counters.Open.Add(1)
				defer p.Counters.Open.Add(-1)
				p.serve(ctx, s, from, idle, log)
				mu.Lock()
				delete(sources, key)
				mu.Unlock()
			})
		}
		mu.Unlock()
		select {
		case s.queue <- append([]byte(nil), buf[:n]...):
		default:
			p.Counters.Dropped.Add(1)
		}
	}
}

// serve passes the packets of one source on, and the answers back.
func (p *Packets) serve(ctx context.Context, s *source, from net.Addr, idle time.Duration, log *slog.Logger) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	c, err := p.Dial(dialing, from)
	cancel()
	if err != nil {
		p.Counters.Failed.Add(1)
		if ctx.Err() == nil {
			log.Warn("packets not passed on", "from", from, "err", err)
		}
		return
	}
	defer c.Close()
	s.last.Store(time.Now().UnixNano())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.answers(s, c, from, idle)
	}()
	for {
		select {
		case b := <-s.queue:
			// A failure tells of an earlier packet, or of one that is too large.
			if n, err := c.Write(b); err == nil {
				p.Counters.Sent.Add(uint64(n))
				s.last.Store(time.Now().UnixNano())
			} else {
				p.Counters.Dropped.Add(1)
			}
			continue
		case <-ended:
		case <-ctx.Done():
			c.Close()
			<-ended
		}
		return
	}
}

// answers sends what comes back to the source, until nothing has gone either way
// for idle, or c is closed.
func (p *Packets) answers(s *source, c net.Conn, from net.Addr, idle time.Duration) {
	buf := make([]byte, maxPacket)
	for {
		last := time.Unix(0, s.last.Load())
		c.SetReadDeadline(last.Add(idle))
		n, err := c.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(time.Unix(0, s.last.Load())) >= idle {
				return
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // nobody took a packet
		}
		s.last.Store(time.Now().UnixNano())
		if _, err := p.Conn.WriteTo(buf[:n], from); err != nil {
			p.Counters.Dropped.Add(1)
			continue
		}
		p.Counters.Received.Add(uint64(n))
	}
}
