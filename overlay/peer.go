package overlay

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Peer is another node. It outlives sessions: when one has ended, Dial and
// Ping make another.
type Peer struct {
	node           *Node
	id             ri2n.PeerID
	sent, received atomic.Uint64 // bytes on streams of users

	mu           sync.Mutex // guards what follows
	associations []*association
	changed      chan struct{} // closed at the next change
	attempt      *attempt      // the dial under way
	via          *rendezvous.Client
	token        *rendezvous.Key // proves that a token of the peer's is ours
	own          *relayLink      // the channel that we opened
	incoming     []*relayLink    // channels that the peer opened
	vias         []*relayLink    // channels through other members, of either side
	relays       []ri2n.PeerID   // with whom the peer was registered last
	carriers     int             // of these, links that are open
	legs         int             // registrations for relaying, of either side, with the peer
	lastUsed     time.Time       // when there was last a session or an attempt
}

// An attempt is a dial that everybody who wants the peer shares.
type attempt struct {
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	err     error // written before done is closed
}

// maxPeers bounds the peers that a node knows; those without a session are
// forgotten first.
const maxPeers = 4096

// peerByID returns the peer of that name, made if need be.
func (n *Node) peerByID(id ri2n.PeerID) *Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[id]
	if p == nil {
		if len(n.peers) >= maxPeers {
			for id, old := range n.peers {
				if old.isIdle() {
					delete(n.peers, id)
				}
			}
		}
		p = &Peer{node: n, id: id, changed: make(chan struct{})}
		n.peers[id] = p
	}
	return p
}

// peerIfKnown returns the peer of that name, nil if nobody has asked for it.
func (n *Node) peerIfKnown(id ri2n.PeerID) *Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[id]
}

func (p *Peer) isIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.associations) == 0 && p.attempt == nil && p.own == nil && len(p.incoming)+len(p.vias)+p.legs+p.carriers == 0 && p.token == nil
}

// ID returns the peer's ID.
func (p *Peer) ID() ri2n.PeerID { return p.id }

// notify wakes whoever waits for a change.
func (p *Peer) notify() {
	p.mu.Lock()
	p.notifyLocked()
	p.mu.Unlock()
}

func (p *Peer) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// join makes a one of the peer's sessions. Of two by the same client the newer
// stays: the peer has forgotten the other. Joining twice does nothing.
func (p *Peer) join(a *association) {
	p.mu.Lock()
	if a.session.Err() != nil {
		p.mu.Unlock()
		return
	}
	var old []*association
	kept := p.associations[:0:0]
	for _, x := range p.associations {
		switch {
		case x == a:
			p.mu.Unlock()
			return
		case x.client == a.client:
			old = append(old, x)
		default:
			kept = append(kept, x)
		}
	}
	first := len(p.associations) == 0
	p.associations = append(kept, a)
	p.notifyLocked()
	p.mu.Unlock()
	p.node.router.poke()
	for _, x := range old {
		x.session.CloseWithError(closeDuplicate, "a newer session of the same client")
	}
	if first {
		p.node.log.Info("peer up", "peer", p.id.Short())
		p.node.emit(Event{Kind: EventPeerUp, Peer: p.id})
	}
}

// leave forgets a session that has ended.
func (p *Peer) leave(a *association) {
	p.mu.Lock()
	last := false
	for i, x := range p.associations {
		if x == a {
			p.associations = append(p.associations[:i:i], p.associations[i+1:]...)
			last = len(p.associations) == 0
			break
		}
	}
	p.lastUsed = time.Now()
	p.notifyLocked()
	p.mu.Unlock()
	p.node.router.poke()
	if last {
		err := a.session.Err()
		p.node.log.Info("peer down", "peer", p.id.Short(), "err", err)
		e := Event{Kind: EventPeerDown, Peer: p.id}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			e.Detail = err.Error()
		}
		var remote *ri2n.RemoteError
		if errors.As(err, &remote) && remote.Code == closeName {
			p.node.grid.nameTaken(remote.Reason)
			p.node.log.Warn("another member has our name; choose another: grid join --name NAME TOKEN", "peer", p.id.Short(), "err", remote.Reason)
		}
		p.node.emit(e)
	}
}

// bestLocked returns the session that new streams use: the one whose client
// has the lower peer ID (ri2n.md, Roles). One that does not answer is left to
// its idle time-out.
func (p *Peer) bestLocked() (best *association) {
	clientIsLow := p.node.PeerID().String() < p.id.String()
	for _, a := range p.associations {
		if a.session.Err() == nil && !a.silent.Load() && (best == nil || a.client == clientIsLow) {
			best = a
		}
	}
	return best
}

func (p *Peer) best() *association {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bestLocked()
}

// all returns the sessions with the peer.
func (p *Peer) all() []*association {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*association(nil), p.associations...)
}

// connect returns the session for new streams, dialing if there is none.
func (p *Peer) connect(ctx context.Context) (*association, error) {
	for {
		p.mu.Lock()
		if a := p.bestLocked(); a != nil {
			p.mu.Unlock()
			return a, nil
		}
		at := p.attempt
		if at == nil {
			var err error
			if at, err = p.begin(); err != nil {
				p.mu.Unlock()
				return nil, err
			}
		}
		at.waiters++
		changed := p.changed
		p.mu.Unlock()

		var err error
		select {
		case <-at.done:
			err = at.err
		case <-changed: // the peer may have been faster
		case <-ctx.Done():
			err = p.explain(ctx.Err())
		}
		p.mu.Lock()
		at.waiters--
		if at.waiters == 0 && ctx.Err() != nil {
			at.cancel()
		}
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// begin starts a dial. The mutex is held.
func (p *Peer) begin() (*attempt, error) {
	ctx, cancel := context.WithTimeout(p.node.ctx, dialTime)
	at := &attempt{cancel: cancel, done: make(chan struct{})}
	started := p.node.spawn(func() {
		defer cancel()
		at.err = p.node.dial(ctx, p)
		p.mu.Lock()
		if p.attempt == at {
			p.attempt = nil
		}
		p.lastUsed = time.Now()
		p.mu.Unlock()
		close(at.done)
	})
	if !started {
		cancel()
		return nil, ErrClosed
	}
	p.attempt = at
	return at, nil
}

// Dial connects to a port of the peer; see [Node.DialContext].
func (p *Peer) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	return p.dial(ctx, port, p.node.cfg.WaitAccept)
}

// dial is Dial, and with await returns when the peer has taken the connection.
func (p *Peer) dial(ctx context.Context, port uint16, await bool) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		local := Addr{Peer: p.node.PeerID()}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Source: local, Addr: Addr{p.id, port}, Err: withNumber(err)}
	}
	if port == portControl {
		return fail(&AddressError{Text: Addr{p.id, port}.String(), Problem: "port 0 is not for connections"})
	}
	for try := 0; ; try++ {
		a, err := p.connect(ctx)
		if err != nil {
			return fail(err)
		}
		if a.check(ctx); a.silent.Load() && try == 0 {
			continue
		}
		c, err := a.dial(ctx, port, await)
		if err == nil {
			return c, nil
		}
		// A session that ended just now makes way for a new one.
		if a.session.Err() == nil || try > 0 || errors.Is(err, ri2n.ErrRefused) {
			return fail(p.explain(err))
		}
		p.leave(a)
	}
}

// Ping measures one round trip of the session on the path that sends now,
// connecting first if there is no session.
func (p *Peer) Ping(ctx context.Context) (time.Duration, PathStatus, error) {
	a, err := p.connect(ctx)
	if err != nil {
		return 0, PathStatus{}, err
	}
	rtt, err := a.ping(ctx)
	if err != nil {
		return 0, PathStatus{}, p.explain(err)
	}
	return rtt, a.pathStatus(), nil
}

// WaitDirect returns when the session sends on a direct path, or with the
// reason (a [*NotDirectError]) when that will not happen soon. It connects
// first if there is no session.
func (p *Peer) WaitDirect(ctx context.Context) (PathStatus, error) {
	a, err := p.connect(ctx)
	if err != nil {
		return PathStatus{}, err
	}
	status, err := a.waitDirect(ctx)
	if err != nil && a.session.Err() != nil {
		err = p.explain(err)
	}
	return status, err
}

func (a *association) waitDirect(ctx context.Context) (PathStatus, error) {
	for {
		a.peer.mu.Lock()
		changed := a.peer.changed
		a.peer.mu.Unlock()
		status := a.pathStatus()
		switch punch.Reason(status.Reason) {
		case punch.Direct:
			return status, nil
		case punch.Connecting, punch.PathDied:
		default:
			return status, newNotDirectError(a.peer.id, punch.Reason(status.Reason), nil)
		}
		select {
		case <-changed:
		case <-a.session.Done():
			return status, a.session.Err()
		case <-ctx.Done():
			return status, newNotDirectError(a.peer.id, punch.Reason(status.Reason), ctx.Err())
		}
	}
}

// Status returns a snapshot. Path and Paths are empty while there is no
// session.
func (p *Peer) Status() PeerStatus {
	s := PeerStatus{ID: p.id, BytesSent: p.sent.Load(), BytesReceived: p.received.Load()}
	if m := p.node.grid.memberOf(time.Now(), p.id); m != nil {
		s.Name = m.Name
	}
	if a := p.best(); a != nil {
		s.Since = a.since
		s.Path, s.Paths = a.pathStatuses()
	}
	return s
}

// Close ends the sessions with the peer. A later Dial makes a new one.
func (p *Peer) Close() error {
	for _, a := range p.all() {
		a.session.Close()
	}
	return nil
}
