package overlay

import (
	"context"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxIncomingRelays bounds the channels that one peer may have open
	// toward us: one in use, and one for the dial that replaces it.
	maxIncomingRelays = 4
	// relayIdle is how long a channel stays without a session.
	relayIdle = 30 * time.Second
	// linkRelay is the name of relay channels among a session's paths.
	linkRelay = "relay"
	// maxClients bounds the rendezvous that a node is registered with: its
	// own and those of tokens.
	maxClients = 4
)

// A relayLink is a channel at the rendezvous, or at a member that relays, as a link
// of our endpoint.
type relayLink struct {
	via     ri2n.PeerID // the member; zero: the rendezvous
	channel *rendezvous.Channel
	link    *ri2n.Link
	since   time.Time
}

// attach makes a link of a channel, until the channel ends.
func (n *Node) attach(p *Peer, ch *rendezvous.Channel, via ri2n.PeerID) (*relayLink, error) {
	name, release := linkRelay, func() {}
	if !via.IsZero() {
		name, release = linkPeerRelay+via.String(), p.carryNoMore
		if !p.carry() {
			n.counters.relaysNested.Add(1)
			ch.Close()
			return nil, errNested
		}
	}
	link, err := n.endpoint.AddCarrier(name, ch)
	if err != nil {
		release()
		ch.Close()
		return nil, err
	}
	r := &relayLink{via: via, channel: ch, link: link, since: time.Now()}
	if !via.IsZero() {
		p.mu.Lock()
		p.vias = append(p.vias, r)
		p.mu.Unlock()
	}
	if !n.spawn(func() {
		<-ch.Done()
		p.forgetRelay(r)
		link.Close()
		release()
		p.wakePaths()
	}) {
		p.forgetRelay(r)
		ch.Close()
		link.Close()
		release()
		return nil, ErrClosed
	}
	if via.IsZero() { // others cannot vouch for addresses
		ch.OnShown(p.shown)
	}
	ch.Attach(link.Deliver)
	return r, nil
}

// keepRelay returns our channel to p, opening one if there is none.
func (n *Node) keepRelay(p *Peer) (*relayLink, error) {
	p.mu.Lock()
	r := p.own
	p.mu.Unlock()
	if r != nil && !isClosed(r.channel.Done()) {
		return r, nil
	}
	return n.openRelay(p)
}

// openRelay opens a channel to p in place of the one that there may be: a dial
// means that no session uses that one, and the peer may have been restarted
// and not have consented to it.
func (n *Node) openRelay(p *Peer) (*relayLink, error) {
	client := n.clientFor(p)
	if client == nil {
		return nil, &NoWayError{Peer: p.id}
	}
	ch, err := client.OpenChannel(p.id)
	if err != nil {
		return nil, err
	}
	r, err := n.attach(p, ch, ri2n.PeerID{})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	old := p.own
	p.own = r
	p.mu.Unlock()
	if old != nil {
		old.channel.Close()
	}
	return r, nil
}

// relayReady reports whether a channel to p could work now.
func (n *Node) relayReady(p *Peer) bool {
	client := n.clientFor(p)
	return client != nil && client.Status().Registered
}

// clientFor returns the rendezvous where p is found, nil if none is known.
func (n *Node) clientFor(p *Peer) *rendezvous.Client {
	p.mu.Lock()
	via := p.via
	p.mu.Unlock()
	if via != nil {
		return via
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.home
}

// onChannel takes a channel that a peer opened. One from a peer that we do not
// accept is closed without a word to it from us.
func (n *Node) onChannel(ch *rendezvous.Channel) {
	id := ch.Peer()
	if !n.admits(id) {
		n.counters.channelsRefused.Add(1)
		ch.Close()
		return
	}
	p := n.peerByID(id)
	r, err := n.attach(p, ch, ri2n.PeerID{})
	if err != nil {
		return
	}
	p.mu.Lock()
	p.incoming = append(p.incoming, r)
	p.lastUsed = time.Now()
	var old *relayLink
	if len(p.incoming) > maxIncomingRelays {
		old = p.incoming[0]
		p.incoming = append(p.incoming[:0:0], p.incoming[1:]...)
	}
	p.mu.Unlock()
	if old != nil {
		old.channel.Close()
	}
}

func (p *Peer) forgetRelay(r *relayLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == r {
		p.own = nil
	}
	other := func(x *relayLink) bool { return x != r }
	p.incoming = kept(p.incoming, other)
	p.vias = kept(p.vias, other)
}

// kept returns those of list that stay, in new memory: others may hold list.
func kept(list []*relayLink, stays func(*relayLink) bool) (rest []*relayLink) {
	for _, x := range list {
		if stays(x) {
			rest = append(rest, x)
		}
	}
	return rest
}

// closeIdleRelays gives back the channels of a peer that has no session.
func (p *Peer) closeIdleRelays(now time.Time) {
	p.mu.Lock()
	var idle []*relayLink
	if len(p.associations) == 0 && p.attempt == nil && now.Sub(p.lastUsed) >= relayIdle {
		idle = append(append(idle, p.incoming...), p.vias...)
		if p.own != nil {
			idle = append(idle, p.own)
		}
	}
	p.mu.Unlock()
	for _, r := range idle {
		if now.Sub(r.since) >= relayIdle {
			r.channel.Close()
		}
	}
}

// wakePaths has every session of the peer look at its paths.
func (p *Peer) wakePaths() {
	for _, a := range p.all() {
		a.paths.wake()
	}
}

// client returns the client of one rendezvous, started if need be.
func (n *Node) client(at rendezvous.Address, key rendezvous.Key) (*rendezvous.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	if c := n.clients[at]; c != nil {
		return c, nil
	}
	if len(n.clients) >= maxClients {
		return nil, &TooManyError{What: "rendezvous", Limit: maxClients}
	}
	c, err := rendezvous.NewClient(rendezvous.Config{
		Server:    at,
		Endpoint:  n.endpoint,
		Links:     n.links.sockets,
		Resolve:   n.cfg.Resolve,
		OnChannel: n.onChannel,
		AdmitKey:  key,
		Logger:    n.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	n.clients[at] = c
	n.running.Go(func() { n.watchClient(c) })
	return c, nil
}

// watchClient gathers addresses whenever the rendezvous is reached again or
// sees us elsewhere, and tells what happens.
func (n *Node) watchClient(c *rendezvous.Client) {
	var was rendezvous.Status
	for {
		changed := c.Changed()
		now := c.Status()
		switch {
		case now.Registered && (!was.Registered || now.Observed != was.Observed):
			if !was.Registered {
				n.emit(Event{Kind: EventRendezvousUp, Detail: now.Server.HostPort()})
			}
			if was.Observed.IsValid() && now.Observed != was.Observed {
				n.networkMoved()
				break
			}
			n.spawn(func() {
				n.links.gather(n.ctx, 0, gatherTime)
				n.eachPeer(func(p *Peer) { p.wakePaths() })
			})
		case !now.Registered && was.Registered:
			detail := now.Server.HostPort()
			if now.LastError != nil {
				detail += ": " + now.LastError.Error()
			}
			n.emit(Event{Kind: EventRendezvousDown, Detail: detail})
			n.eachPeer(func(p *Peer) { p.wakePaths() }) // what went through it needs another way
		}
		if now.Observed.IsValid() {
			was = now
		} else {
			was.Registered = now.Registered
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}

// networkMoved looks for direct paths again, from where we are seen now.
func (n *Node) networkMoved() {
	n.spawn(func() {
		n.links.gather(n.ctx, 0, gatherTime)
		n.eachPeer(func(p *Peer) {
			for _, a := range p.all() {
				a.paths.networkChanged()
			}
		})
	})
}

// mappingChanged looks for direct paths again, as a router sends another outside
// port on to us, or none any more.
func (n *Node) mappingChanged() {
	n.spawn(func() {
		n.eachPeer(func(p *Peer) {
			for _, a := range p.all() {
				a.paths.networkChanged()
				if !a.client && a.isProven() {
					// The client begins attempts; hearing of links has it begin anew.
					a.toldLinks.Store(true)
					a.tellLinks()
				}
			}
		})
	})
}

// networkDoubt has every rendezvous prove that it still hears us, which also
// opens a mapping that a router has forgotten.
func (n *Node) networkDoubt() {
	n.mu.Lock()
	clients := make([]*rendezvous.Client, 0, len(n.clients))
	for _, c := range n.clients {
		clients = append(clients, c)
	}
	n.mu.Unlock()
	for _, c := range clients {
		c.Retry()
	}
	n.legs.doubt()
}

// Ready waits until the node is registered at its rendezvous and knows its
// outside addresses. It returns nil at once for a node without a rendezvous,
// and the rendezvous's error when ctx ends before.
func (n *Node) Ready(ctx context.Context) error {
	n.mu.Lock()
	home := n.home
	n.mu.Unlock()
	if home == nil {
		return nil
	}
	if err := home.Wait(ctx); err != nil {
		return err
	}
	n.links.gather(ctx, freshDial, gatherTime)
	return ctx.Err()
}
