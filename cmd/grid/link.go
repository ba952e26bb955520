package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Ports of the overlay on which files travel.
const (
	portFetch   = 1 // a guest with a token fetches a file here
	portDeliver = 2 // a known peer delivers a file here
)

const (
	// retryPause is the pause before a lost connection is tried again, at
	// first; it doubles up to maxRetryPause.
	retryPause    = 500 * time.Millisecond
	maxRetryPause = 5 * time.Second
	// dialTimeout bounds one attempt to reach the peer.
	dialTimeout = 20 * time.Second
	// stallTime is how long nothing may arrive before the peer is asked for a
	// sign of life, and stallPing how long that may take. A session by itself
	// waits a minute.
	stallTime = 4 * time.Second
	stallPing = 6 * time.Second
)

// errStalled is why a connection was given up.
var errStalled = errors.New("the other side gives no sign of life")

// A persister keeps a transfer going over lost connections, from the side that
// dials.
type persister struct {
	node *overlay.Node
	// dial connects to the peer: anew, when an earlier connection was lost.
	dial func(ctx context.Context) (*overlay.Peer, net.Conn, error)
	// carry runs the transfer over one connection.
	carry func(ctx context.Context, c net.Conn) (transfer.Result, error)
	// patience is how long a peer that was there may be away.
	patience time.Duration
	report   *report
	// lost is told why the connection is tried again.
	lost func(err error)
}

// run returns the first result, or the first error that another connection
// does not cure.
func (p *persister) run(ctx context.Context) (transfer.Result, error) {
	var alive time.Time // when the peer was last there; zero: never
	var away error      // why it is tried again
	pause := retryPause
	for {
		result, reached, err := p.once(ctx)
		switch {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			return result, ctx.Err()
		}
		if reached {
			alive, away, pause = time.Now(), nil, retryPause
			var lost *transfer.LostError
			if !errors.As(err, &lost) || errors.Is(err, syscall.ECONNREFUSED) {
				return result, err // a port that is closed stays so
			}
		} else if alive.IsZero() || refusal(err) || time.Since(alive) >= p.patience {
			return result, err
		}
		if away == nil {
			away = err
			p.lost(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return result, ctx.Err()
		}
		pause = min(2*pause, maxRetryPause)
	}
}

// once makes one connection; reached says whether the peer was there.
func (p *persister) once(ctx context.Context) (r transfer.Result, reached bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	peer, c, err := p.dial(dialing)
	cancel()
	if err != nil {
		return r, false, err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { p.report.follow(following, p.node, peer) })
	var stalled atomic.Bool
	follower.Go(func() {
		if p.watchLife(following, peer) != nil {
			stalled.Store(true)
			c.Close()
		}
	})
	r, err = p.carry(ctx, c)
	c.Close()
	stop()
	follower.Wait()
	var lost *transfer.LostError
	if errors.As(err, &lost) {
		if stalled.Load() {
			err = &transfer.LostError{Err: errStalled}
		}
		// Whatever the session is worth now, the next one begins anew.
		peer.Close()
	}
	return r, true, err
}

// watchLife returns an error once the transfer has stalled and the peer does
// not answer, and nil when ctx ends.
func (p *persister) watchLife(ctx context.Context, peer *overlay.Peer) error {
	ticker := time.NewTicker(stallTime / 4)
	defer ticker.Stop()
	heard := time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if at := p.report.lastMove(); at.After(heard) {
			heard = at
		}
		if time.Since(heard) < stallTime {
			continue
		}
		pinging, cancel := context.WithTimeout(ctx, stallPing)
		_, _, err := peer.Ping(pinging)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		heard = time.Now()
	}
}

// refusal reports whether the other side has answered, and said no.
func refusal(err error) bool {
	var token *overlay.TokenRefusedError
	return errors.As(err, &token) || errors.Is(err, ri2n.ErrRefused)
}

// accept passes on the connections of a listener until that is closed.
func accept(ln net.Listener) <-chan net.Conn {
	conns := make(chan net.Conn)
	go func() {
		defer close(conns)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return conns
}

// A host keeps a transfer going over lost connections, from the side that is
// dialed: the peer comes again by itself.
type host struct {
	node *overlay.Node
	ln   net.Listener
	// admit decides whether a peer's connection is taken.
	admit func(ctx context.Context, peer ri2n.PeerID) bool
	// carry runs the transfer over one connection.
	carry func(ctx context.Context, peer ri2n.PeerID, c net.Conn) (transfer.Result, error)
	// ends says whether an error ends the whole; nil stands for none.
	ends   func(err error) bool
	report *report
	// lost is told why the next connection is waited for.
	lost func(err error)
	// expired ends the waiting for the first connection; nil: never.
	expired <-chan error
	// patience is how long a peer that was there may be away. Zero: for ever.
	patience time.Duration
}

// visit is a connection that is being served.
type visit struct {
	stop func()
	done chan visited // receives once
}

type visited struct {
	result transfer.Result
	err    error
}

// run serves one connection at a time and returns the first result. A later
// connection of the peer takes the place of an earlier one, which it has lost.
func (h *host) run(ctx context.Context) (transfer.Result, error) {
	conns := accept(h.ln)
	defer func() {
		h.ln.Close()
		for c := range conns {
			c.Close()
		}
	}()
	var current visit
	end := func() {
		if current.stop != nil {
			current.stop()
			<-current.done
		}
		current = visit{}
	}
	defer end()
	expired := h.expired
	var away error            // why the peer is to come again
	var over <-chan time.Time // ends the waiting for it
	for {
		select {
		case c, open := <-conns:
			if !open {
				return transfer.Result{}, net.ErrClosed
			}
			peer, known := overlay.PeerOf(c)
			if !known || !h.admit(ctx, peer) {
				c.Close()
				continue
			}
			end()
			expired, over = nil, nil
			current = h.serve(ctx, peer, c)
		case v := <-current.done:
			current.stop()
			current = visit{}
			if v.err == nil || ctx.Err() != nil || h.ends(v.err) {
				return v.result, v.err
			}
			if away = v.err; h.patience > 0 {
				over = time.After(h.patience)
			}
			h.lost(v.err)
		case <-over:
			return transfer.Result{}, away
		case err := <-expired:
			return transfer.Result{}, err
		case <-ctx.Done():
			return transfer.Result{}, ctx.Err()
		}
	}
}

func (h *host) serve(ctx context.Context, id ri2n.PeerID, c net.Conn) visit {
	ctx, stop := context.WithCancel(ctx)
	v := visit{stop, make(chan visited, 1)}
	go func() {
		var follower sync.WaitGroup
		following, unfollow := context.WithCancel(ctx)
		if peer, err := h.node.Connect(ctx, id); err == nil { // there is a session
			h.report.begin(id, peer.Status().Since)
			follower.Go(func() { h.report.follow(following, h.node, peer) })
		}
		result, err := h.carry(ctx, id, c)
		c.Close()
		unfollow()
		follower.Wait()
		v.done <- visited{result, err}
	}()
	return v
}
