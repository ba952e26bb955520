package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxStreams is the default of Streams.Max: two descriptors and two
	// goroutines each.
	maxStreams = 4096
	// dialTime bounds a dial.
	dialTime = 20 * time.Second
	// acceptPause is the wait after a failure to accept that passes, such as too
	// many open files.
	acceptPause = 50 * time.Millisecond
)

// Streams joins each connection that arrives with one that it dials.
type Streams struct {
	Listener net.Listener

	// Dial opens the other side of a connection. Ctx ends after 20 s, and with
	// Serve.
	Dial func(ctx context.Context, c net.Conn) (net.Conn, error)

	// Max bounds the connections at once. Those on top wait to be accepted. Zero
	// means 4096.
	Max int

	// Logger is told of connections that could not be passed on. Nil: nobody.
	Logger *slog.Logger

	Counters Counters
}

// Serve passes connections on until ctx ends or the listener is closed, which
// it does itself. It returns when all connections have ended.
func (s *Streams) Serve(ctx context.Context) error {
	log := s.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit := s.Max
	if limit == 0 {
		limit = maxStreams
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer s.Listener.Close()
	stop := context.AfterFunc(ctx, func() { s.Listener.Close() })
	defer stop()
	places := make(chan struct{}, limit)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := s.Listener.Accept()
		if err != nil {
			<-places
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			log.Warn("connection not accepted", "err", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		running.Go(func() {
			defer func() { <-places }()
			s.join(ctx, c, log)
		})
	}
}

func (s *Streams) join(ctx context.Context, c net.Conn, log *slog.Logger) {
	s.Counters.Taken.Add(1)
	s.Counters.Open.Add(1)
	defer s.Counters.Open.Add(-1)
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d, err := s.Dial(dialing, c)
	if err != nil {
		s.Counters.Failed.Add(1)
		if ctx.Err() == nil {
			log.Warn("connection not passed on", "from", c.RemoteAddr(), "err", err)
		}
		giveUp(c)
		return
	}
	stop := context.AfterFunc(ctx, func() {
		giveUp(c)
		giveUp(d)
	})
	defer stop()
	sent, received := Join(c, d)
	s.Counters.Sent.Add(uint64(sent))
	s.Counters.Received.Add(uint64(received))
}
