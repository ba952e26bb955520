package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/punch/portmap"
)

// verifyTime bounds the proof of a mapped address from outside.
const verifyTime = 3 * time.Second

// portMapping says how the links of a node get a port of their router. The zero
// value never asks.
type portMapping struct {
	on      bool
	label   string // beside the mapping, in the router
	changed func() // a link has another mapped address
}

// errOtherOutside reports a router that names another address than servers see.
var errOtherOutside = errors.New("servers see this network at another address: the router is behind another NAT, or wrong")

// wantsMapping reports whether a mapping would be of use: a NAT, with a public
// address outside, stands between the link and the servers.
func (l *nodeLink) wantsMapping() bool {
	l.mu.Lock()
	translated := l.behavior.Translated == punch.Yes
	l.mu.Unlock()
	var public punch.Filter
	_, err := public.Check(l.outside(), false)
	return translated && err == nil
}

// mapPort begins to keep the link mapped, once a server has seen a NAT before
// it, and asks again when the server sees it elsewhere.
func (l *nodeLink) mapPort(p portMapping, was netip.AddrPort) {
	if !p.on || l.gateway == nil || !l.wantsMapping() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mapping != nil {
		if now := l.outsideLocked(); now.Addr() != was.Addr() {
			l.mapping.Refresh()
		}
		return
	}
	if l.closed {
		return
	}
	cfg := portmap.Config{
		Route:   l.route,
		Dial:    l.dialRouter,
		Verify:  l.verifyMapping,
		Filter:  punch.Filter{Deny: l.inside},
		Changed: p.changed,
		Label:   p.label,
		Logger:  l.log,
	}
	if l.listen != nil {
		cfg.Listen = func(netip.Addr) (net.PacketConn, error) { return l.listen() }
	}
	if l.system {
		cfg.Announcements = portmap.ListenAnnouncements
	}
	var err error
	if l.mapping, err = portmap.Start(cfg); err != nil {
		l.log.Warn("ports are not mapped", "link", l.link.Name(), "err", err)
	}
}

// route returns the router of the link, while a mapping is of use.
func (l *nodeLink) route() (gateway netip.Addr, local netip.AddrPort) {
	if !l.wantsMapping() {
		return netip.Addr{}, netip.AddrPort{}
	}
	gateway, from := l.gateway()
	return gateway, netip.AddrPortFrom(from, l.local.Port())
}

// verifyMapping proves that packets from outside come in at an address that the
// router has named. Where no server can prove it, it has to be the address that
// servers see, and the connectivity checks of peers find out about the port.
func (l *nodeLink) verifyMapping(ctx context.Context, outside netip.AddrPort) error {
	seen := l.outside()
	switch {
	case seen == outside:
		return nil // a candidate anyway
	case seen.IsValid() && seen.Addr() != outside.Addr():
		return fmt.Errorf("%w: %v", errOtherOutside, seen.Addr())
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	err := punch.ErrNoWitness
	if l.listen != nil {
		l.mu.Lock()
		servers := l.servers
		l.mu.Unlock()
		via, failed := l.listen()
		if failed != nil {
			return failed
		}
		err = l.mux.Reached(ctx, via, servers, outside)
	}
	if errors.Is(err, punch.ErrNoWitness) && seen.IsValid() {
		return nil
	}
	return err
}

// mapped returns the verified address outside that a router maps to the link, or
// the zero value.
func (l *nodeLink) mapped() netip.AddrPort {
	l.mu.Lock()
	m := l.mapping
	l.mu.Unlock()
	if m == nil {
		return netip.AddrPort{}
	}
	return m.Outside()
}

// withMapped adds the mapped address to candidates, before the reflexive ones:
// whoever sends there gets through.
func withMapped(list []punch.Candidate, mapped netip.AddrPort) []punch.Candidate {
	if !mapped.IsValid() || slices.ContainsFunc(list, func(c punch.Candidate) bool { return c.Addr == mapped }) {
		return list
	}
	at := slices.IndexFunc(list, func(c punch.Candidate) bool { return c.Kind != punch.KindHost })
	if at < 0 {
		at = len(list)
	}
	return slices.Insert(slices.Clone(list), at, punch.Candidate{Addr: mapped, Kind: punch.KindServerReflexive})
}

// unmap removes the mapping from the router, for which it waits up to a second.
func (l *nodeLink) unmap() {
	l.mu.Lock()
	m := l.mapping
	l.closed = true
	l.mu.Unlock()
	if m != nil {
		m.Close()
	}
}

// unmap removes the mappings of all links, at the same time.
func (ls *nodeLinks) unmap(list []*nodeLink) {
	var wait sync.WaitGroup
	for _, l := range list {
		wait.Go(l.unmap)
	}
	wait.Wait()
}

// portMapsNow adds up what the links' clients have counted, those of links that
// are gone left out.
func (ls *nodeLinks) portMapsNow() (sum portmap.Counters) {
	for _, l := range ls.all() {
		l.mu.Lock()
		m := l.mapping
		l.mu.Unlock()
		if m == nil {
			continue
		}
		c := m.Counters()
		sum.Made += c.Made
		sum.Renewed += c.Renewed
		sum.Failed += c.Failed
		sum.Refused += c.Refused
		sum.Restarts += c.Restarts
		sum.Strangers += c.Strangers
		sum.Malformed += c.Malformed
		sum.Leftovers += c.Leftovers
		sum.Unremoved += c.Unremoved
	}
	return sum
}

// status describes the mapping for people.
func (l *nodeLink) mappingStatus() *MappingStatus {
	l.mu.Lock()
	m := l.mapping
	l.mu.Unlock()
	if m == nil {
		return nil
	}
	st := m.Status()
	s := &MappingStatus{Protocol: string(st.Protocol), Outside: st.Outside, Expires: st.Expires}
	if st.Err != nil {
		s.Problem = st.Err.Error()
	}
	return s
}

// A MappingStatus is what the router before a link was asked for.
type MappingStatus struct {
	Protocol string         `json:"protocol,omitempty"` // pcp, nat-pmp or upnp-igd; empty: there is no mapping
	Outside  netip.AddrPort `json:"outside,omitzero"`   // proved from outside
	Expires  time.Time      `json:"expires,omitzero"`   // zero: never; it is renewed before
	Problem  string         `json:"problem,omitempty"`  // why there is none
}
