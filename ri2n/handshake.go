package ri2n

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A handshake is an association in the making: crypto/tls driven over long
// packets on every candidate transport address at once. It runs on the
// endpoint's handshake workers under its own mutex, never on a reader, since
// crypto/tls computes while it is called.
type handshake struct {
	endpoint  *Endpoint
	client    bool
	firstDCID connID // names the handshake at the responder at first
	scid      connID // our long connection ID
	finished  chan struct{}

	// written before finished is closed
	session *Session
	err     error

	watched   []tupleKey    // guarded by the endpoint's mutex
	waiting   waitingList   // guarded by the endpoint's waitingQueue
	awaited   chan struct{} // capacity 1: something waits for attend; nil: a responder's
	timer     timer
	prefix    netip.Prefix // responder: of whom it was begun with; invalid: came over a carrier
	charged   time.Duration
	datagrams atomic.Int32 // that have been queued for it
	over      atomic.Bool  // responder: finished, so that datagrams change nothing

	mu        sync.Mutex // guards what follows
	state     handshakeState
	peer      PeerID // wanted by the client, proven to the server
	refusal   error  // what verify said; crypto/tls tells it less well
	macKey    [32]byte
	dcid      connID // the peer's long connection ID
	answered  bool   // client: the server has chosen dcid
	odcid     connID
	retrySCID connID
	retried   bool
	token     []byte
	tls       *tls.QUICConn
	tlsDone   bool
	spaces    [2]cryptoSpace // Initial, Handshake
	secrets   applicationSecrets
	params    transportParams // the peer's
	held      []heldPacket
	tuples    []*tuple
	path      *tuple // client: where the answer came; server: where the end came
	started   time.Time
	rtt       time.Duration // zero until an answer has come
	next      time.Time     // retransmission; zero: none
	attempts  int
	small     bool      // datagrams have the floor's size
	ackAt     time.Time // when an ACK leaves alone; zero: none waits
	expires   time.Time
	tombstone bool // finished, and counted as such
}

type handshakeState uint8

const (
	handshakeRunning handshakeState = iota
	handshakeComplete
	handshakeDead
)

func (e *Endpoint) newHandshake(client bool) *handshake {
	h := &handshake{
		endpoint: e,
		client:   client,
		scid:     e.newConnID(),
		finished: make(chan struct{}),
	}
	h.timer.fire = h.onTimer
	return h
}

// start begins the handshake's time.
func (h *handshake) start(now time.Time) {
	h.started, h.expires = now, now.Add(h.endpoint.cfg.HandshakeTimeout)
}

// newClientHandshake sends the first Initial before it returns.
func (e *Endpoint) newClientHandshake(peer PeerID, candidates []Remote) (*handshake, error) {
	h := e.ready.take()
	if h == nil {
		var err error
		if h, err = e.makeHello(); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(now)
	h.peer = peer
	h.macKey = mac1Key(peer)
	for i, c := range candidates {
		if i == maxHandshakeTuples {
			break
		}
		h.tuples = append(h.tuples, &tuple{link: c.Link, addr: c.Addr, due: now.Add(candidateDelay(i)), proven: true})
	}
	if !e.routes.addLong(h.scid, h) {
		h.release()
		return nil, errors.New("ri2n: connection ID collision")
	}
	e.counters.handshakesStarted.Add(1)
	h.flush(now, true)
	return h, nil
}

// newServerHandshake makes the state for an Initial that opened.
func (e *Endpoint) newServerHandshake(hdr longHeader, start initialStart, client, server *packetKeys, prefix netip.Prefix, now time.Time) (*handshake, error) {
	h := e.newHandshake(false)
	h.start(now)
	h.prefix = prefix
	h.macKey = e.macKey
	h.firstDCID = hdr.dcid
	h.dcid = hdr.scid
	h.odcid, h.retried, h.retrySCID = start.odcid, start.retried, start.retrySCID
	h.spaces[0].read, h.spaces[0].write = client, server
	h.mu.Lock()
	defer h.mu.Unlock()
	if !e.addHalfOpen(h, now) {
		return nil, errors.New("ri2n: no room for another handshake")
	}
	e.counters.handshakesStarted.Add(1)
	h.tls = tls.QUICServer(&tls.QUICConfig{TLSConfig: e.tlsConfig(h)})
	h.tls.SetTransportParameters(e.transportParams(h))
	if err := h.tls.Start(context.Background()); err != nil {
		h.fail(now, err)
		return nil, err
	}
	return h, nil
}

// attend waits for the end of a dial, and meanwhile handles what arrives for
// it: the goroutine that waits anyway saves the change to a worker and back.
func (h *handshake) attend(ctx context.Context) {
	for ended := false; !ended; {
		select {
		case <-h.awaited:
			h.receiveWaiting()
			continue
		case <-h.finished:
		case <-ctx.Done():
			h.abort(ctx.Err())
		case <-h.endpoint.done:
			h.abort(net.ErrClosed)
		}
		ended = true
	}
	<-h.finished
	// From here on it is for the workers; what was left to us is still ours.
	if h.endpoint.initials.leave(&h.waiting) {
		h.receiveWaiting()
	}
}
