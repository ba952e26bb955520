package overlay

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/punch/portmap"
	"github.com/instantgrid/instantgrid/ri2n"
)

// maxHosts bounds the addresses of our own that one link offers.
const maxHosts = 6

// A nodeLink is one socket, shared by ri2n and punch.
type nodeLink struct {
	id    uint16 // punch's, from 1; never used again
	link  *ri2n.Link
	mux   *punch.Mux
	local netip.AddrPort
	own   func() []netip.Prefix

	inside []netip.Prefix                 // as nodeLinks has it
	listen func() (net.PacketConn, error) // nil: no further sockets
	log    *slog.Logger

	gateway    func() (gateway, from netip.Addr) // nil: no port is mapped
	dialRouter func(ctx context.Context, network, address string) (net.Conn, error)
	system     bool // the gateway is this computer's, and so are its announcements

	mu         sync.Mutex // guards what follows
	candidates []punch.Candidate
	servers    []netip.AddrPort // that were asked, of the family of the socket
	spares     []*ri2n.Link     // further sockets of paths that a search found
	behavior   punch.Behavior
	asked      bool            // servers were asked at least once
	heard      bool            // one of them answered the last time
	mapping    *portmap.Client // nil: no router was asked for a port
	closed     bool            // and none will be
}

// nodeLinks are the links of a node, which come and go.
type nodeLinks struct {
	endpoint *ri2n.Endpoint
	log      *slog.Logger
	budget   *punch.Budget
	servers  func() []netip.AddrPort            // STUN
	observed func(link string) []netip.AddrPort // where members see us
	inside   []netip.Prefix                     // of the grid: they lead through our own sessions
	mapping  portMapping

	mu       sync.Mutex  // guards what follows
	list     []*nodeLink // in the order they came; replaced, not changed
	lastID   uint16
	closed   bool
	gathered time.Time // zero: never
	running  chan struct{}
}

func newNodeLinks(endpoint *ri2n.Endpoint, log *slog.Logger) *nodeLinks {
	return &nodeLinks{endpoint: endpoint, log: log, budget: punch.NewBudget()}
}

// open makes links and muxes of the configured sockets. After an error the
// sockets are the caller's to close.
func (ls *nodeLinks) open(configured []LinkConfig) error {
	for _, c := range configured {
		if _, err := ls.add(c); err != nil {
			ls.close()
			return err
		}
	}
	return nil
}

// add makes a link of a socket. After an error the socket is the caller's.
func (ls *nodeLinks) add(c LinkConfig) (*nodeLink, error) {
	ls.mu.Lock()
	if ls.closed {
		ls.mu.Unlock()
		return nil, ErrClosed
	}
	ls.lastID++
	if ls.lastID == 0 {
		ls.lastID = 1
	}
	id := ls.lastID
	name := c.Name
	if name == "" {
		name = fmt.Sprintf("link%d", id)
	}
	if slices.ContainsFunc(ls.list, func(l *nodeLink) bool { return l.link.Name() == name }) {
		name = fmt.Sprintf("%s-%d", name, id)
	}
	ls.mu.Unlock()

	l := &nodeLink{id: id, log: ls.log, inside: ls.inside, local: addrPortOf(c.Conn.LocalAddr()), gateway: c.Gateway, dialRouter: c.DialGateway}
	filter := punch.Filter{Deny: ls.inside}
	_, real := c.Conn.(*net.UDPConn)
	switch {
	case c.OwnPrefixes != nil:
		l.own = func() []netip.Prefix { return c.OwnPrefixes }
	case real:
		l.own = punch.InterfacePrefixes
	}
	if l.listen = c.Listen; l.listen == nil && real {
		l.listen = func() (net.PacketConn, error) {
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.local.Addr(), 0)))
		}
	}
	filter.Own = l.own
	if real {
		filter.Gateways = punch.DefaultGateways
	}
	if l.gateway == nil && real {
		l.system = true
		l.gateway = func() (netip.Addr, netip.Addr) { return punch.Router(l.local.Addr()) }
	}
	link, err := ls.endpoint.AddLink(name, c.Conn)
	if err != nil {
		return nil, &LinkError{Name: "link " + name, Err: err}
	}
	l.link = link
	l.mux, err = punch.NewMux(link.Other(), punch.MuxConfig{Logger: ls.log, Filter: filter, Budget: ls.budget})
	if err != nil {
		link.Close()
		return nil, &LinkError{Name: "link " + name, Err: err}
	}
	ls.mu.Lock()
	closed := ls.closed
	if !closed {
		ls.list = append(slices.Clip(ls.list), l)
	}
	ls.mu.Unlock()
	if closed {
		l.close()
		return nil, ErrClosed
	}
	return l, nil
}

// remove takes a link out of use: nothing new begins on it. The caller closes
// it.
func (ls *nodeLinks) remove(l *nodeLink) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if i := slices.Index(ls.list, l); i >= 0 {
		ls.list = slices.Delete(slices.Clone(ls.list), i, i+1)
	}
}

// close ends attempts and paths on the link, and its socket.
func (l *nodeLink) close() {
	l.unmap()
	l.mux.Close()
	l.link.Close()
	l.mu.Lock()
	spares := l.spares
	l.mu.Unlock()
	for _, s := range spares {
		s.Close()
	}
}

func (ls *nodeLinks) close() {
	ls.mu.Lock()
	ls.closed = true
	list := ls.list
	ls.mu.Unlock()
	ls.unmap(list)
	for _, l := range list {
		l.mux.Close()
	}
}

// all returns the links, those first over which servers have answered.
func (ls *nodeLinks) all() []*nodeLink {
	ls.mu.Lock()
	list := slices.Clone(ls.list)
	ls.mu.Unlock()
	rank := make(map[*nodeLink]int, len(list))
	for _, l := range list {
		l.mu.Lock()
		if !l.heard {
			rank[l] = 1
		}
		l.mu.Unlock()
	}
	slices.SortStableFunc(list, func(a, b *nodeLink) int { return rank[a] - rank[b] })
	return list
}

// ids returns the links' IDs in the order of all.
func (ls *nodeLinks) ids() []uint16 {
	var ids []uint16
	for _, l := range ls.all() {
		ids = append(ids, l.id)
	}
	return ids[:min(len(ids), maxLinksTold)]
}

// sockets returns the links for the rendezvous.
func (ls *nodeLinks) sockets() []*ri2n.Link {
	var list []*ri2n.Link
	for _, l := range ls.all() {
		list = append(list, l.link)
	}
	return list
}

func (ls *nodeLinks) byID(id uint16) *nodeLink {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.list {
		if l.id == id {
			return l
		}
	}
	return nil
}

func (ls *nodeLinks) byName(name string) *nodeLink {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.list {
		if l.has(name) {
			return l
		}
	}
	return nil
}

// punchLinks returns the links as attempts see them.
func (ls *nodeLinks) punchLinks() []punch.Link {
	var list []punch.Link
	for _, l := range ls.all() {
		list = append(list, l.snapshot())
	}
	return list
}

func (l *nodeLink) snapshot() punch.Link {
	mapped := l.mapped()
	l.mu.Lock()
	defer l.mu.Unlock()
	p := punch.Link{ID: l.id, Mux: l.mux, Candidates: l.candidates, Behavior: l.behavior, Listen: l.listen, Servers: l.servers}
	if p.Candidates == nil {
		for _, h := range l.hosts() {
			p.Candidates = append(p.Candidates, punch.Candidate{Addr: h, Kind: punch.KindHost})
		}
	}
	p.Candidates = withMapped(p.Candidates, mapped)
	return p
}

// reaches reports whether the socket can send to an address of remote's family.
func (l *nodeLink) reaches(remote netip.Addr) bool {
	a := l.local.Addr()
	return a.Is6() && a.IsUnspecified() || a.Is4() == remote.Unmap().Is4()
}

// hosts returns the link's own transport addresses. A socket on the wildcard
// address has one for each address of this computer.
func (l *nodeLink) hosts() []netip.AddrPort {
	if !l.local.Addr().IsUnspecified() {
		return []netip.AddrPort{l.local}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.AddrPort
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		addr := p.Addr().Unmap()
		if addr.IsLoopback() || addr.IsLinkLocalUnicast() || !l.reaches(addr) || len(list) >= maxHosts ||
			slices.ContainsFunc(l.inside, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			continue
		}
		list = append(list, netip.AddrPortFrom(addr, l.local.Port()))
	}
	return list
}

// outside returns the reflexive transport address of the link, if known.
func (l *nodeLink) outside() netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outsideLocked()
}

func (l *nodeLink) outsideLocked() netip.AddrPort {
	for _, c := range l.candidates {
		if c.Kind == punch.KindServerReflexive {
			return c.Addr
		}
	}
	return netip.AddrPort{}
}

// fresh reports whether the candidates are younger than age.
func (ls *nodeLinks) fresh(age time.Duration) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return !ls.gathered.IsZero() && time.Since(ls.gathered) < age
}

// gather makes the candidates of every link true again unless they are younger
// than age; those of a link that has come since are found in any case. It takes
// at most limit; whoever comes while it runs waits for the same result.
func (ls *nodeLinks) gather(ctx context.Context, age, limit time.Duration) {
	ls.mu.Lock()
	list := ls.list
	if age > 0 && !ls.gathered.IsZero() && time.Since(ls.gathered) < age {
		var fresh []*nodeLink
		for _, l := range list {
			l.mu.Lock()
			if !l.asked {
				fresh = append(fresh, l)
			}
			l.mu.Unlock()
		}
		if list = fresh; len(list) == 0 {
			ls.mu.Unlock()
			return
		}
	}
	if running := ls.running; running != nil {
		ls.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
		}
		return
	}
	done := make(chan struct{})
	ls.running = done
	ls.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	servers := ls.servers()
	heard := false
	var links sync.WaitGroup
	var mu sync.Mutex
	for _, l := range list {
		links.Go(func() {
			was := l.outside()
			if l.gather(ctx, servers, ls.observed(l.link.Name())) {
				mu.Lock()
				heard = true
				mu.Unlock()
				l.mapPort(ls.mapping, was)
			}
		})
	}
	links.Wait()

	ls.mu.Lock()
	if heard && len(list) == len(ls.list) {
		ls.gathered = time.Now()
	}
	ls.running = nil
	ls.mu.Unlock()
	close(done)
}

// gather asks the servers and reports whether any has answered. Without an
// answer it goes by where members see the link, and without these the last
// reflexive addresses stay: they are the best guess.
func (l *nodeLink) gather(ctx context.Context, servers, observed []netip.AddrPort) bool {
	var reachable []netip.AddrPort
	for _, s := range servers {
		if l.reaches(s.Addr()) {
			reachable = append(reachable, s)
		}
	}
	if len(reachable)+len(observed) == 0 {
		return false
	}
	candidates, behavior := l.mux.Gather(ctx, l.hosts(), reachable)
	heard := false
	for _, c := range candidates {
		heard = heard || c.Kind == punch.KindServerReflexive
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A socket with a public address has no reflexive candidate of its own.
	heard = heard || behavior.Translated == punch.No
	if !heard && len(observed) > 0 {
		for _, a := range observed {
			if !slices.ContainsFunc(candidates, func(c punch.Candidate) bool { return c.Addr == a }) {
				candidates = append(candidates, punch.Candidate{Addr: a, Kind: punch.KindServerReflexive})
			}
		}
		heard, behavior = true, l.behavior
	}
	l.asked, l.heard, l.servers = true, heard, reachable
	if heard || l.candidates == nil {
		l.candidates, l.behavior = candidates, behavior
	}
	return heard
}

// status returns the links for people.
func (ls *nodeLinks) status() []LinkStatus {
	links := ls.all()
	list := make([]LinkStatus, len(links))
	for i, l := range links {
		list[i] = LinkStatus{Name: l.link.Name(), Local: l.local, Outside: l.outside(), Mapping: l.mappingStatus()}
		l.mu.Lock()
		if l.behavior != (punch.Behavior{}) {
			list[i].Behavior = l.behavior.String()
		}
		l.mu.Unlock()
	}
	return list
}
