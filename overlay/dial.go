package overlay

import (
	"context"
	"errors"
	"net"
	"slices"
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
// "NAME:PORT". On network "tcp" it returns at once
// when a session exists, else after one relay round trip; a refusal by the
// port's owner arrives from the first Read or Write as ECONNREFUSED, or here
// where Config.WaitAccept says so. On network "udp" it returns a socket for
// packets of that peer's port (see [Node.ListenPacket]), once there is a session.
//
// The error is a [*net.OpError] around an error type of this package or of
// package rendezvous; errors.Is finds ECONNREFUSED, EHOSTUNREACH and ETIMEDOUT
// in it. Dials to one peer share one attempt, which goes on while
// any of them waits.
func (n *Node) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.dialContext(ctx, network, address, n.cfg.WaitAccept)
}

// DialAccepted is DialContext that returns when the peer has taken the
// connection, one round trip later, so that a refusal is its error: what
// proxies need, which have to tell others whether a connection is there.
func (n *Node) DialAccepted(ctx context.Context, network, address string) (net.Conn, error) {
	return n.dialContext(ctx, network, address, true)
}

func (n *Node) dialContext(ctx context.Context, network, address string, await bool) (net.Conn, error) {
	packets := checkPacketNetwork(network) == nil
	if !packets {
		if err := checkNetwork(network); err != nil {
			return nil, err
		}
	}
	to, err := n.resolveAddr(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: withNumber(err)}
	}
	if to.Peer == n.PeerID() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &AddressError{Text: address, Problem: "it is our own"}}
	}
	if packets {
		return n.dialPacket(ctx, to)
	}
	return n.peerByID(to.Peer).dial(ctx, to.Port, await)
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
	vias, asked := n.openVias(p, nil)
	err := n.dialOnce(ctx, p, token, vias)
	if err != nil && p.mayBeElsewhere(err) && n.legs.expand(ctx, p, asked) {
		vias, _ = n.openVias(p, asked)
		err = n.dialOnce(ctx, p, token, vias)
	}
	return err
}

// mayBeElsewhere reports whether another relay may know a peer that a dial has
// failed to reach.
func (p *Peer) mayBeElsewhere(err error) bool {
	var mismatch *ri2n.PeerMismatchError
	var peer *PeerError
	return p.best() == nil && !errors.As(err, &mismatch) && !(errors.As(err, &peer) && peer.refused())
}

// dialOnce dials on what there is now: vias, and all other ways.
func (n *Node) dialOnce(ctx context.Context, p *Peer, token *rendezvous.Key, vias []*relayLink) error {
	heard, candidates := n.heardCandidates(p.id), n.directCandidates(p)
	candidates = candidates[:min(len(candidates), maxDirectCandidates-len(vias))]
	patience := time.Duration(0)
	if len(candidates)+len(heard) > 0 {
		patience = directChance
	}
	for _, r := range vias {
		candidates = append(candidates, ri2n.Remote{Link: r.link})
	}
	client := n.clientFor(p)
	if len(heard) == 0 && len(vias) == 0 && (client == nil || !client.Status().Registered) {
		candidates = mergeRemotes(candidates, n.introduced(ctx, p))
	}
	if len(heard) == 0 && len(candidates) == 0 {
		var err error
		if heard, err = n.awaitWay(ctx, p); err != nil {
			return p.explain(err)
		}
	}
	// Channels whose end is the end of the hope in them.
	var channels []*rendezvous.Channel
	if client != nil {
		relay, err := n.openRelay(p)
		if err != nil {
			return p.explain(err)
		}
		if client.Status().Registered || len(vias) == 0 {
			channels = append(channels, relay.channel)
		}
		candidates = append([]ri2n.Remote{{Link: relay.link}}, candidates...)
	}
	for _, r := range vias {
		channels = append(channels, r.channel)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if len(channels) > 0 {
		stop := watchChannels(ctx, channels, patience, func() {
			err := channels[0].Err()
			if len(channels) == len(vias) {
				err = &NoWayError{Peer: p.id, Relays: len(vias)}
			}
			cancel(err)
		})
		defer stop()
	}
	s, err := n.race(ctx, p.id, heard, candidates)
	closeUnused(vias, s)
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

// mergeRemotes returns the remotes of both lists, as many as a dial may try.
func mergeRemotes(a, b []ri2n.Remote) []ri2n.Remote {
	for _, x := range b {
		if len(a) < maxDirectCandidates && !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}

// waitRegistered waits for the rendezvous, though not for ever.
func waitRegistered(ctx context.Context, client *rendezvous.Client) error {
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	return client.Wait(ctx)
}

// watchChannels calls cancel once the relay channels of a dial have all ended,
// after patience. The function that it returns ends the watch.
func watchChannels(ctx context.Context, list []*rendezvous.Channel, patience time.Duration, cancel func()) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, ch := range list {
			select {
			case <-ch.Done():
			case <-done:
				return
			case <-ctx.Done():
				return
			}
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
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
	addrs := n.remembered.of(p.id)
	if a, known := n.legs.addrOf(p.id); known && !slices.Contains(addrs, a) {
		addrs = append(addrs, a)
	}
	for _, addr := range addrs {
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
