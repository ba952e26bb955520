package overlay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// ErrClosed reports the use of a node that has been closed. It is
// [net.ErrClosed] for errors.Is.
var ErrClosed = fmt.Errorf("overlay: node closed: %w", net.ErrClosed)

// A Node is a member of the overlay: an identity, its links, its rendezvous,
// and the sessions with its peers. Its methods may be called concurrently.
type Node struct {
	cfg         Config
	dir         directory
	identity    *ri2n.Identity
	log         *slog.Logger
	endpoint    *ri2n.Endpoint
	links       *nodeLinks
	remembered  *rememberedTable
	allowed     *allowList
	invitations *invitationTable
	grid        *gridTable
	policies    policyKeeper // keepHouse's, after Start
	staleSaid   atomic.Bool
	events      hub[Event]
	counters    counters
	nonce       atomic.Uint64
	lan         lanKeeper
	handlers    handlers
	router      *router // nil: no part in routing
	relayHost   *relayHost
	legs        *legKeeper
	packets     packetTable
	ip          atomic.Pointer[IPHandler] // nil: IP packets are refused

	ctx       context.Context // ends with the node
	cancel    context.CancelFunc
	running   sync.WaitGroup
	closeOnce sync.Once
	ended     chan struct{}

	mu        sync.Mutex // guards what follows
	closed    bool
	home      *rendezvous.Client // nil: none
	clients   map[rendezvous.Address]*rendezvous.Client
	peers     map[ri2n.PeerID]*Peer
	listeners map[uint16]*listener
	offers    []*Offer
}

// Start starts a node. It returns once the sockets are open; registration at
// the rendezvous goes on in the background (see [Node.Ready]). Ctx bounds the
// start, not the life of the node, which Close ends.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	closeLinks := func() {
		for _, l := range cfg.Links {
			l.Conn.Close()
		}
	}
	if err := ctx.Err(); err != nil {
		closeLinks()
		return nil, err
	}
	n := &Node{
		cfg:       cfg,
		dir:       directory(cfg.Dir),
		log:       cfg.Logger,
		ended:     make(chan struct{}),
		clients:   make(map[rendezvous.Address]*rendezvous.Client),
		peers:     make(map[ri2n.PeerID]*Peer),
		listeners: make(map[uint16]*listener),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.packets.init(n)
	address, err := n.load()
	if err != nil {
		closeLinks()
		return nil, err
	}
	ownLinks := len(cfg.Links) == 0 && cfg.Uplinks == nil
	uplinks := cfg.Uplinks
	if len(cfg.Links) == 0 && uplinks == nil && severalUplinks(address) {
		uplinks = systemUplinks(cfg.ListenPort)
	}
	if len(cfg.Links) == 0 && uplinks == nil {
		if n.cfg.Links, err = defaultLinks(cfg.ListenPort); err != nil {
			return nil, err
		}
		cfg.Links = n.cfg.Links
	}
	n.endpoint, err = ri2n.NewEndpoint(ri2n.Config{
		Identity:  n.identity,
		Authorize: n.authorize,
		Logger:    cfg.Logger,
		Trace:     cfg.Trace,
	})
	if err != nil {
		closeLinks()
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.relayHost, n.legs = newRelayHost(n), newLegKeeper(n)
	n.links = newNodeLinks(n.endpoint, n.log)
	n.links.observed = n.legs.observed
	n.links.servers = n.stunServers
	n.links.inside = n.grid.prefixes()
	n.links.mapping = portMapping{
		on:      !cfg.NoPortMapping && cfg.Path != PathRelayOnly,
		label:   "Instant Grid " + n.PeerID().Short(),
		changed: n.mappingChanged,
	}
	err = n.links.open(n.cfg.Links)
	if err == nil && uplinks != nil {
		err = n.startUplinks(ctx, uplinks)
	}
	if err != nil {
		closeLinks()
		n.cancel()
		n.links.close()
		n.endpoint.Close()
		n.running.Wait()
		return nil, err
	}
	n.handlers.services[serviceRelay] = n.relayHost.serve
	n.handlers.services[serviceOffers] = n.serveOffers
	n.running.Go(func() { n.relayHost.relay.Run(n.ctx) })
	for inv := range n.invitations.open {
		inv.node = n
	}
	// A ledger's record gives a place in the key space. In a grid without a ledger
	// the certificates that members show each other do.
	if own := n.grid.ownProof(); own != nil && (own.Record != nil || n.grid.ledgerless() && n.grid.ownMember() != nil) && !cfg.Routing.Off {
		if n.router, err = newRouter(n); err != nil {
			closeLinks()
			n.cancel()
			n.links.close()
			n.endpoint.Close()
			n.running.Wait()
			return nil, err
		}
		n.running.Go(n.router.run)
	}
	n.running.Go(n.acceptSessions)
	n.running.Go(n.keepHouse)
	if !address.IsZero() {
		home, err := n.client(address, rendezvous.Key{})
		if err != nil {
			n.Close()
			return nil, err
		}
		n.mu.Lock()
		n.home = home
		n.mu.Unlock()
		n.resumeInvitations(home)
		if n.grid.member() && !n.grid.ledgerless() {
			n.running.Go(n.tendGrid)
		}
	}
	n.startLAN(ownLinks)
	n.running.Go(n.legs.run)
	return n, nil
}

// load reads what the directory holds.
func (n *Node) load() (home rendezvous.Address, err error) {
	if err := n.dir.open(); err != nil {
		return home, err
	}
	n.dir.sweep(time.Now())
	n.identity = n.cfg.Identity
	if n.identity == nil {
		n.identity, err = n.dir.identity(func() (*ri2n.Identity, error) { return ri2n.NewIdentity(rand.Reader) })
		if err != nil {
			return home, err
		}
	}
	if n.allowed, err = loadAllowList(n.dir, n.cfg.Allow); err != nil {
		return home, err
	}
	if n.remembered, err = loadRemembered(n.dir, time.Now()); err != nil {
		return home, err
	}
	if n.invitations, err = loadInvitations(n.dir, time.Now()); err != nil {
		return home, err
	}
	if n.grid, err = loadGrid(n.dir, n.identity.PeerID(), time.Now()); err != nil {
		return home, err
	}
	for _, err := range []error{n.remembered.damage, n.grid.damage} {
		if err != nil {
			n.log.Warn("a file of the state directory is damaged; the node does without it", "err", err)
		}
	}
	n.policies.file = policyPath(n.cfg)
	if err := n.lookAtPolicy(); err != nil {
		return home, err
	}
	return findHome(n.dir, n.cfg)
}

// policyPath returns where the policy is; empty: nowhere.
func policyPath(cfg Config) string {
	if cfg.Policy == "" && cfg.Dir != "" {
		return directory(cfg.Dir).path(filePolicy)
	}
	return cfg.Policy
}

// findHome returns the node's own rendezvous, zero for none.
func findHome(dir directory, cfg Config) (home rendezvous.Address, err error) {
	if cfg.Rendezvous != "" {
		return rendezvous.ParseAddress(cfg.Rendezvous)
	}
	err = dir.lines(fileRendezvous, func(line string) error {
		if !home.IsZero() {
			return errors.New("a second rendezvous; one is used")
		}
		home, err = rendezvous.ParseAddress(line)
		return err
	})
	return home, err
}

// PeerID returns the node's own peer ID.
func (n *Node) PeerID() ri2n.PeerID { return n.identity.PeerID() }

// spawn runs f as one of the node's goroutines. It reports false, and runs
// nothing, once the node is being closed.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.running.Go(f)
	return true
}

// newNonce returns a number that is used once by this node.
func (n *Node) newNonce() uint64 {
	var b [8]byte
	rand.Read(b[:4])
	return uint64(binary.BigEndian.Uint32(b[:4]))<<32 | n.nonce.Add(1)&0xffffffff
}

// acceptSessions takes what peers open.
func (n *Node) acceptSessions() {
	for {
		s, err := n.endpoint.Accept(n.ctx)
		if err != nil {
			return
		}
		p := n.peerByID(s.Peer())
		a := newAssociation(p, s)
		if n.grid.isRevoked(s.Peer()) {
			s.CloseWithError(closeRevoked, "revoked")
			continue
		}
		trusted := n.trusts(s.Peer())
		if !trusted && !n.mayProve(a) {
			s.CloseWithError(closeProof, "too many wrong proofs")
			n.invitations.release(s.Peer())
			n.grid.release(s.Peer())
			continue
		}
		// It counts once its control stream is there: the client may have made
		// it beside another one, which was faster.
		a.startServer(trusted)
	}
}

// houseTime is the pause between two rounds of keepHouse.
const houseTime = 5 * time.Second

// keepHouse does now and then what no event brings about.
func (n *Node) keepHouse() {
	ticker := time.NewTicker(houseTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.ctx.Done():
			return
		}
		now := time.Now()
		relayed := false
		n.eachPeer(func(p *Peer) {
			p.closeIdleRelays(now)
			p.closeDuplicates(now)
			for _, a := range p.all() {
				relayed = relayed || a.pathStatus().Reason != ""
			}
		})
		if relayed {
			// The next attempt may come at any moment, from either side.
			n.spawn(func() { n.links.gather(n.ctx, freshDial-houseTime, gatherTime) })
		}
		n.invitations.expire(now)
		n.closeExpired(now)
		if err := n.grid.store(now); err != nil {
			n.log.Warn("members are not stored", "err", err)
		}
		_ = n.lookAtPolicy() // which says itself what is wrong
		if err := n.remembered.save(); err != nil {
			n.log.Warn("remembered addresses are not stored", "err", err)
		}
	}
}

// closeDuplicates ends the sessions that new streams do not use, once they are
// without streams. Only their clients do so: they know what is on its way.
func (p *Peer) closeDuplicates(now time.Time) {
	best := p.best()
	for _, a := range p.all() {
		if a == best || best == nil || !a.client {
			continue
		}
		if since := a.idleSince(); !since.IsZero() && now.Sub(since) >= duplicateGrace && now.Sub(best.since) >= duplicateGrace {
			a.session.CloseWithError(closeDuplicate, "another session is used")
		}
	}
}

// eachPeer calls f for every peer, without a lock.
func (n *Node) eachPeer(f func(*Peer)) {
	n.mu.Lock()
	peers := make([]*Peer, 0, len(n.peers))
	for _, p := range n.peers {
		peers = append(peers, p)
	}
	n.mu.Unlock()
	for _, p := range peers {
		f(p)
	}
}

// closeTime bounds how long Close waits for written data to arrive.
const closeTime = 6 * time.Second

// Close ends the node: streams that were closed before get up to 5 s for their
// data to arrive, all others end. It returns when every goroutine of the node
// has ended, and may be called twice.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.router.leave()
		n.mu.Lock()
		n.closed = true
		listeners := make([]*listener, 0, len(n.listeners))
		for _, l := range n.listeners {
			listeners = append(listeners, l)
		}
		clients := make([]*rendezvous.Client, 0, len(n.clients))
		for _, c := range n.clients {
			clients = append(clients, c)
		}
		n.mu.Unlock()
		for _, l := range listeners {
			l.Close()
		}
		n.packets.close()
		n.lan.close()
		// Sessions end while their relay still runs: first those that may need
		// a member for it.
		patience := time.NewTimer(closeTime)
		defer patience.Stop()
		for _, legs := range []bool{false, true} {
			var sessions []*ri2n.Session
			n.eachPeer(func(p *Peer) {
				for _, a := range p.all() {
					if p.isLeg() == legs || legs {
						a.session.Close()
						sessions = append(sessions, a.session)
					}
				}
			})
			for _, s := range sessions {
				select {
				case <-s.Ended():
				case <-patience.C:
					patience.Reset(0) // for all the others too
				}
			}
		}
		n.cancel()
		for _, c := range clients {
			c.Close()
		}
		n.legs.close()
		n.links.close()
		n.endpoint.Close()
		n.running.Wait()
		n.relayHost.relay.Wait()
		n.events.close()
		if err := n.remembered.save(); err != nil {
			n.log.Warn("remembered addresses are not stored", "err", err)
		}
		if err := n.grid.store(time.Now()); err != nil {
			n.log.Warn("members are not stored", "err", err)
		}
		close(n.ended)
	})
	<-n.ended
	return nil
}
