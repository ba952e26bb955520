package rpc

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"time"
)

// A remote is a worker as a client sees it. One connection, which carries no
// calls, says that it is there and what it offers; each call has another one.
type remote struct {
	client  *Client
	address string
	ctx     context.Context // ends when the worker is no longer wanted
	cancel  context.CancelFunc
	idle    chan *clientConn // connections without a call

	// Guarded by the client's mutex.
	control *clientConn // the connection without calls; nil: there is none
	offer   welcome
	gone    chan struct{} // closed when the connection is lost; nil: there is none
	err     error         // why not
	done    uint64        // calls with a result
	broken  uint64        // attempts that were lost with their connection
}

// run keeps the worker connected.
func (r *remote) run() {
	defer r.cancel()
	pause := redialFirst
	for r.ctx.Err() == nil {
		begun := time.Now()
		err := r.follow()
		r.lost(err)
		if time.Since(begun) > redialLast {
			pause = redialFirst
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, redialLast)
	}
	r.drain()
}

// follow connects and takes in what the worker offers, until the connection is
// lost.
func (r *remote) follow() error {
	conn, err := r.dial(r.ctx, true)
	if err != nil {
		return err
	}
	defer conn.close()
	defer context.AfterFunc(r.ctx, conn.close)()
	r.client.mu.Lock()
	r.control = conn
	r.client.mu.Unlock()
	for {
		k, n, err := readHeader(conn.r)
		if err != nil {
			return err
		}
		if k != frameWelcome {
			return fmt.Errorf("%w: frame %#x in place of WELCOME", errMalformed, byte(k))
		}
		offer, err := conn.readWelcome(n)
		if err != nil {
			return err
		}
		r.found(offer)
	}
}

// found takes in what the worker offers.
func (r *remote) found(offer welcome) {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.remotes[r.address] != r {
		return
	}
	r.offer, r.err = offer, nil
	if r.gone == nil {
		r.gone = make(chan struct{})
		c.emit(Event{Kind: EventWorkerUp, Worker: r.address, Detail: offer.name})
	}
	c.plan.join(time.Now(), r.address, offer.site, int(offer.slots), offer.names())
	c.learned()
	c.carry()
}

// lost takes the worker out.
func (r *remote) lost(err error) {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	r.err, r.control = err, nil
	c.learned()
	if r.gone == nil {
		return
	}
	close(r.gone)
	r.gone = nil
	c.emit(Event{Kind: EventWorkerDown, Worker: r.address, Detail: err.Error()})
	c.plan.leave(time.Now(), r.address, err.Error())
	r.drain()
	c.carry()
}

// drain closes idle connections.
func (r *remote) drain() {
	for {
		select {
		case conn := <-r.idle:
			conn.close()
		default:
			return
		}
	}
}

// take returns an idle connection, or a new one, which is certain not to have
// been closed by the worker meanwhile.
func (r *remote) take(ctx context.Context, mustBeNew bool) (conn *clientConn, fresh bool, err error) {
	if !mustBeNew {
		select {
		case conn = <-r.idle:
			return conn, false, nil
		default:
		}
	}
	conn, err = r.dial(ctx, false)
	return conn, true, err
}

// give takes back a connection without a call.
func (r *remote) give(conn *clientConn) {
	if r.ctx.Err() == nil {
		select {
		case r.idle <- conn:
			return
		default:
		}
	}
	conn.close()
}

// A clientConn is a connection to a worker.
type clientConn struct {
	c    net.Conn
	r    *bufio.Reader
	out  []byte
	sent <-chan struct{} // closed when the argument is sent; nil: it is
	last uint32          // number of the last call
}

func (conn *clientConn) close() { conn.c.Close() }

// idle reports whether nothing is under way: the argument of a call that was
// refused may be.
func (conn *clientConn) idle() bool {
	if conn.sent != nil {
		select {
		case <-conn.sent:
		default:
			return false
		}
	}
	conn.sent = nil
	return true
}

// dial connects. HELLO leaves with the first call, or now where none follows.
func (r *remote) dial(ctx context.Context, watch bool) (*clientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	nc, err := r.client.cfg.Dial(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	conn := &clientConn{c: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	conn.out = appendFrame(conn.out, frameHello, hello{protocolVersion, watch}.appendBody)
	if watch {
		if err := conn.flush(); err != nil {
			nc.Close()
			return nil, err
		}
	}
	return conn, nil
}

// flush sends out.
func (conn *clientConn) flush() error {
	_, err := conn.c.Write(conn.out)
	conn.out = conn.out[:0]
	return err
}

func (conn *clientConn) readWelcome(n int) (welcome, error) {
	b, err := readBody(conn.r, n)
	if err != nil {
		return welcome{}, err
	}
	w, err := parseWelcome(b)
	if err == nil && w.version != protocolVersion {
		err = fmt.Errorf("rpc: the worker speaks version %d, we speak %d", w.version, protocolVersion)
	}
	return w, err
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
