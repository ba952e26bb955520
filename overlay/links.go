package overlay

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

// maxHosts bounds the addresses of our own that one link offers.
const maxHosts = 6

// A nodeLink is one socket, shared by ri2n and punch.
type nodeLink struct {
	id    uint16 // punch's, from 1
	link  *ri2n.Link
	mux   *punch.Mux
	local netip.AddrPort
	own   func() []netip.Prefix

	mu         sync.Mutex // guards what follows
	candidates []punch.Candidate
	behavior   punch.Behavior
}

// nodeLinks are the links of a node. The list never changes.
type nodeLinks struct {
	list    []*nodeLink
	log     *slog.Logger
	servers func() []netip.AddrPort // STUN

	mu       sync.Mutex // guards what follows
	gathered time.Time  // zero: never
	running  chan struct{}
}

// openLinks makes links and muxes of the configured sockets.
func openLinks(endpoint *ri2n.Endpoint, configured []LinkConfig, log *slog.Logger) (*nodeLinks, error) {
	ls := &nodeLinks{log: log}
	budget := punch.NewBudget()
	for i, c := range configured {
		name := c.Name
		if name == "" {
			name = fmt.Sprintf("link%d", i+1)
		}
		l := &nodeLink{id: uint16(i + 1), local: addrPortOf(c.Conn.LocalAddr())}
		filter := punch.Filter{}
		_, real := c.Conn.(*net.UDPConn)
		switch {
		case c.OwnPrefixes != nil:
			l.own = func() []netip.Prefix { return c.OwnPrefixes }
		case real:
			l.own = punch.InterfacePrefixes
		}
		filter.Own = l.own
		if real {
			filter.Gateways = punch.DefaultGateways
		}
		link, err := endpoint.AddLink(name, c.Conn)
		if err != nil {
			ls.close()
			return nil, &LinkError{Name: "link " + name, Err: err}
		}
		l.link = link
		l.mux, err = punch.NewMux(link.Other(), punch.MuxConfig{Logger: log, Filter: filter, Budget: budget})
		if err != nil {
			link.Close()
			ls.close()
			return nil, &LinkError{Name: "link " + name, Err: err}
		}
		ls.list = append(ls.list, l)
	}
	return ls, nil
}

func (ls *nodeLinks) close() {
	for _, l := range ls.list {
		l.mux.Close()
	}
}

// sockets returns the links for the rendezvous.
func (ls *nodeLinks) sockets() []*ri2n.Link {
	list := make([]*ri2n.Link, len(ls.list))
	for i, l := range ls.list {
		list[i] = l.link
	}
	return list
}

func (ls *nodeLinks) byID(id uint16) *nodeLink {
	if id == 0 || int(id) > len(ls.list) {
		return nil
	}
	return ls.list[id-1]
}

// punchLinks returns the links as attempts see them.
func (ls *nodeLinks) punchLinks() []punch.Link {
	list := make([]punch.Link, len(ls.list))
	for i, l := range ls.list {
		list[i] = l.snapshot()
	}
	return list
}

func (l *nodeLink) snapshot() punch.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := punch.Link{ID: l.id, Mux: l.mux, Candidates: l.candidates, Behavior: l.behavior}
	if p.Candidates == nil {
		for _, h := range l.hosts() {
			p.Candidates = append(p.Candidates, punch.Candidate{Addr: h, Kind: punch.KindHost})
		}
	}
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
		if addr.IsLoopback() || addr.IsLinkLocalUnicast() || !l.reaches(addr) || len(list) >= maxHosts {
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
	for _, c := range l.candidates {
		if c.Kind == punch.KindServerReflexive {
			return c.Addr
		}
	}
	return netip.AddrPort{}
}

// gather makes the candidates of every link true again unless they are younger
// than age. It takes at most limit; whoever comes while it runs waits for the
// same result.
func (ls *nodeLinks) gather(ctx context.Context, age, limit time.Duration) {
	ls.mu.Lock()
	if age > 0 && !ls.gathered.IsZero() && time.Since(ls.gathered) < age {
		ls.mu.Unlock()
		return
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
	for _, l := range ls.list {
		links.Go(func() {
			if l.gather(ctx, servers) {
				mu.Lock()
				heard = true
				mu.Unlock()
			}
		})
	}
	links.Wait()

	ls.mu.Lock()
	if heard {
		ls.gathered = time.Now()
	}
	ls.running = nil
	ls.mu.Unlock()
	close(done)
}

// gather asks the servers and reports whether any has answered. Without an
// answer the last reflexive addresses stay: they are the best guess.
func (l *nodeLink) gather(ctx context.Context, servers []netip.AddrPort) bool {
	var reachable []netip.AddrPort
	for _, s := range servers {
		if l.reaches(s.Addr()) {
			reachable = append(reachable, s)
		}
	}
	if len(reachable) == 0 {
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
	if heard || l.candidates == nil {
		l.candidates, l.behavior = candidates, behavior
	}
	return heard
}

// status returns the links for people.
func (ls *nodeLinks) status() []LinkStatus {
	list := make([]LinkStatus, len(ls.list))
	for i, l := range ls.list {
		list[i] = LinkStatus{Name: l.link.Name(), Local: l.local, Outside: l.outside()}
		l.mu.Lock()
		if l.behavior != (punch.Behavior{}) {
			list[i].Behavior = l.behavior.String()
		}
		l.mu.Unlock()
	}
	return list
}
