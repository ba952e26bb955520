package tun

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures an [Interface].
type Config struct {
	// Node carries the packets. Required.
	Node *overlay.Node

	// Name is that of the network interface. Empty: grid0.
	Name string

	// MTU is the interface's, in bytes, from 1280 to 9000. Zero: DefaultMTU.
	MTU int

	// IPv6Only leaves the IPv4 address and route out, where the grid's network
	// overlaps another one.
	IPv6Only bool

	// Changes writes the changes to this computer down. Nil: nobody does.
	Changes Changes

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger
}

// DefaultMTU is the largest that IPv6 lets every path have, plus nothing: see
// decision 0028.
const DefaultMTU = 1280

const (
	minMTU = 1280 // RFC 8200, section 5
	maxMTU = 9000
)

// An Interface joins a network interface of this computer with the grid.
type Interface struct {
	network  overlay.IPNetwork
	node     carrierNode
	device   Device
	undo     func() error
	log      *slog.Logger
	counters counters
	problems *rate.Limiter // ICMP errors

	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	mu        sync.RWMutex // guards what follows
	byAddress map[netip.Addr]*peer
	byID      map[ri2n.PeerID]*peer
	refreshed time.Time // when we last asked who is a member
	closed    bool
}

// Start makes the interface and lets packets pass until Close. It fails with an
// [*OverlapError] or a [*DeviceError], or because the node is no member of a
// grid now.
func Start(cfg Config) (*Interface, error) {
	network, err := cfg.Node.IPNetwork()
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "grid0"
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, &DeviceError{Name: cfg.Name, Step: "giving it an MTU", Err: errMTU}
	}
	if cfg.IPv6Only {
		network.Self.Address = netip.Addr{}
	}
	device, undo, err := Open(Addressing{
		Name: cfg.Name, MTU: cfg.MTU, Prefix: network.Prefix, Prefix6: network.Prefix6,
		Address: network.Self.Address, Address6: network.Self.Address6,
	}, cfg.Changes)
	if err != nil {
		return nil, err
	}
	i := newInterface(network, overlayNode{cfg.Node}, device, cfg.Logger)
	i.undo = undo
	i.start()
	cfg.Node.HandleIP(i)
	return i, nil
}

var errMTU = errors.New("it is not from 1280 to 9000")

func newInterface(network overlay.IPNetwork, node carrierNode, d Device, log *slog.Logger) *Interface {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	i := &Interface{
		network: network, node: node, device: d, undo: d.Close, log: log,
		problems:  rate.NewLimiter(problemRate, problemBurst),
		byAddress: make(map[netip.Addr]*peer), byID: make(map[ri2n.PeerID]*peer),
	}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	return i
}

// Of ICMP errors (RFC 4443, section 2.4).
const (
	problemRate  = 100 // in a second
	problemBurst = 50
)

func (i *Interface) start() {
	i.running.Go(i.read)
	i.running.Go(i.tend)
}

// Close takes the interface down and undoes what Start has changed. It may be
// called twice.
func (i *Interface) Close() error {
	i.closeOnce.Do(func() {
		i.node.HandleIP(nil)
		i.mu.Lock()
		i.closed = true
		i.mu.Unlock()
		i.cancel()
		i.closeErr = i.undo()
		i.running.Wait()
	})
	return i.closeErr
}

// tendTime is the pause between two looks at what is over.
const tendTime = 30 * time.Second

// tend forgets flows and peers that are over.
func (i *Interface) tend() {
	ticker := time.NewTicker(tendTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-i.ctx.Done():
			return
		}
		now := time.Now()
		i.mu.Lock()
		for _, p := range i.byID {
			if p.flows.expire(now) == 0 && p.idle(now) {
				i.forget(p)
			}
		}
		i.mu.Unlock()
	}
}

// maxPeers bounds the peers that packets are exchanged with.
const maxPeers = 4096

// forget removes a peer. The mutex is held.
func (i *Interface) forget(p *peer) {
	i.counters.forget(p)
	delete(i.byID, p.member.Peer)
	for _, a := range []netip.Addr{p.member.Address, p.member.Address6} {
		if i.byAddress[a] == p {
			delete(i.byAddress, a)
		}
	}
}

// peerAt returns the peer that has an address, nil if no member has it.
func (i *Interface) peerAt(a netip.Addr, now time.Time) *peer {
	i.mu.RLock()
	p := i.byAddress[a]
	i.mu.RUnlock()
	if p != nil && now.Sub(time.Unix(0, p.checked.Load())) < memberCheck {
		return p
	}
	m, ok := i.node.MemberAt(a)
	if !ok {
		i.refresh(now)
		return nil
	}
	return i.peerOf(m, now)
}

// memberCheck is for how long an address is taken for its member's.
const memberCheck = 5 * time.Second

// peerOf returns the peer of a member, nil if there is no room for another.
func (i *Interface) peerOf(m overlay.IPMember, now time.Time) *peer {
	i.mu.RLock()
	p := i.byID[m.Peer]
	i.mu.RUnlock()
	if p != nil && p.member == m {
		p.checked.Store(now.UnixNano())
		return p
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if p = i.byID[m.Peer]; p != nil && p.member == m {
		return p
	}
	if p != nil {
		i.forget(p)
	}
	if len(i.byID) >= maxPeers || i.closed {
		return nil
	}
	p = &peer{member: m}
	p.checked.Store(now.UnixNano())
	i.byID[m.Peer] = p
	i.byAddress[m.Address6] = p
	if m.Address.IsValid() {
		i.byAddress[m.Address] = p
	}
	return p
}

// refreshPause is the least time between two questions for new members.
const refreshPause = 10 * time.Second

// refresh asks who is a member, after a packet to an address that nobody has.
func (i *Interface) refresh(now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || now.Sub(i.refreshed) < refreshPause {
		return
	}
	i.refreshed = now
	i.running.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, refreshPause)
		defer cancel()
		i.node.refresh(ctx)
	})
}

// carrierNode is what an Interface needs of a node.
type carrierNode interface {
	MemberAt(netip.Addr) (overlay.IPMember, bool)
	MayOpen(peer ri2n.PeerID, port uint16) bool
	HandleIP(overlay.IPHandler)
	session(peer ri2n.PeerID) (carrier, bool)
	connect(ctx context.Context, peer ri2n.PeerID) error
	refresh(ctx context.Context)
}

// A carrier is a session with a peer; see [overlay.IPSession].
type carrier interface {
	Usable() bool
	MaxContent() int
	Send(flow uint32, list [][]byte) (int, error)
}

// overlayNode is a node as carrierNode.
type overlayNode struct{ *overlay.Node }

func (n overlayNode) session(peer ri2n.PeerID) (carrier, bool) {
	s, ok := n.IPSession(peer)
	return s, ok
}

func (n overlayNode) connect(ctx context.Context, peer ri2n.PeerID) error {
	_, err := n.Connect(ctx, peer)
	return err
}

func (n overlayNode) refresh(ctx context.Context) { _, _ = n.Members(ctx) }

// read takes packets from this computer until the device is closed.
func (i *Interface) read() {
	buffers, sizes := make([][]byte, batchSize), make([]int, batchSize)
	room := make([]byte, batchSize*(sendRoom+maxMTU))
	for k := range buffers {
		buffers[k] = room[k*(sendRoom+maxMTU):][: sendRoom+maxMTU : sendRoom+maxMTU]
	}
	out := newSender(i)
	for failures := 0; failures < maxReadFailures; {
		n, err := i.device.Read(buffers, sizes, sendRoom)
		if errors.Is(err, net.ErrClosed) || i.ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			i.counters.deviceErrors.Add(1)
			i.log.Debug("packet not read", "err", err)
			continue
		}
		failures = 0
		now := time.Now()
		for k := range n {
			out.add(now, buffers[k][:sendRoom+sizes[k]])
		}
		out.flush(now)
	}
	i.log.Error("the interface cannot be read any more", "interface", i.device.Name())
}

// maxReadFailures is how many reads in a row may fail before the interface is
// given up.
const maxReadFailures = 1000
