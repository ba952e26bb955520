package overlay

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// dialTime bounds a dial, from the first packet to the session.
	dialTime = 15 * time.Second
	// registerTime is how long a dial waits for the rendezvous where it knows
	// no other way to the peer.
	registerTime = 5 * time.Second
	// directChance is how long remembered addresses are tried once the
	// rendezvous has said that the peer is not there.
	directChance = 2 * time.Second
)

// DialContext connects to "PEERID:PORT" or, in a grid, to the member
// "NAME:PORT" (network "tcp"). It returns at once
// when a session exists, else after one relay round trip; a refusal by the
// port's owner arrives from the first Read or Write as ECONNREFUSED.
//
// The error is a [*net.OpError] around an error type of this package or of
// package rendezvous. Dials to one peer share one attempt, which goes on while
// any of them waits.
func (n *Node) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := checkNetwork(network); err != nil {
		return nil, err
	}
	to, err := n.resolveAddr(ctx, address)
	if err != nil {
		return nil, err
	}
	if to.Peer == n.PeerID() {
		return nil, &AddressError{Text: address, Problem: "it is our own"}
	}
	return n.peerByID(to.Peer).Dial(ctx, to.Port)
}

// resolveAddr decodes "PEERID:PORT" or "NAME:PORT".
func (n *Node) resolveAddr(ctx context.Context, address string) (Addr, error) {
	to, err := ParseAddr(address)
	host, port, found := strings.Cut(address, ":")
	if err == nil || !found || !n.grid.member() {
		return to, err
	}
	id, err := n.Resolve(ctx, host)
	if err != nil {
		return Addr{}, err
	}
	return ParseAddr(id.String() + ":" + port)
}

// Connect returns the peer, with a session: an existing one, or a new one.
func (n *Node) Connect(ctx context.Context, peer ri2n.PeerID) (*Peer, error) {
	if peer == n.PeerID() || peer.IsZero() {
		return nil, &AddressError{Text: peer.String(), Problem: "it names no other node"}
	}
	p := n.peerByID(peer)
	if _, err := p.connect(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// dial makes a session with p on whatever can carry a packet now.
func (n *Node) dial(ctx context.Context, p *Peer) error {
	n.counters.dials.Add(1)
	if n.grid.isRevoked(p.id) {
		return &membership.Error{Problem: membership.Revoked, What: "peer " + p.id.String()}
	}
	p.mu.Lock()
	token := p.token
	p.mu.Unlock()

	heard, candidates := n.heardCandidates(p.id), n.directCandidates(p)
	client := n.clientFor(p)
	if len(heard) == 0 && len(candidates) == 0 {
		var err error
		if heard, err = n.awaitWay(ctx, p); err != nil {
			return p.explain(err)
		}
	}
	var channel *rendezvous.Channel
	if client != nil {
		relay, err := n.openRelay(p)
		if err != nil {
			return p.explain(err)
		}
		channel = relay.channel
		candidates = append([]ri2n.Remote{{Link: relay.link}}, candidates...)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if channel != nil {
		patience := time.Duration(0)
		if len(candidates)+len(heard) > 1 {
			patience = directChance
		}
		stop := n.watchChannel(ctx, channel, patience, cancel)
		defer stop()
	}
	s, err := n.race(ctx, p.id, heard, candidates)
	if err != nil {
		n.counters.dialsFailed.Add(1)
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return p.explain(err)
	}
	a := newAssociation(p, s)
	if err := a.startClient(ctx, token); err != nil {
		s.Close()
		return p.explain(err)
	}
	return nil
}

// waitRegistered waits for the rendezvous, though not for ever.
func waitRegistered(ctx context.Context, client *rendezvous.Client) error {
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	return client.Wait(ctx)
}

// watchChannel cancels a dial whose relay channel has ended, after patience.
// The function that it returns ends the watch.
func (n *Node) watchChannel(ctx context.Context, ch *rendezvous.Channel, patience time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ch.Done():
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(ch.Err())
		case <-done:
		case <-ctx.Done():
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// directCandidates returns the transport addresses where p was reached last.
func (n *Node) directCandidates(p *Peer) []ri2n.Remote {
	if n.cfg.Path == PathRelayOnly {
		return nil
	}
	var list []ri2n.Remote
	for _, addr := range n.remembered.of(p.id) {
		for _, l := range n.links.all() {
			if l.reaches(addr.Addr()) && len(list) < maxDirectCandidates {
				list = append(list, ri2n.Remote{Link: l.link, Addr: addr})
			}
		}
	}
	return list
}

// maxDirectCandidates leaves room for the relay among ri2n's eight.
const maxDirectCandidates = 7
