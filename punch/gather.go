package punch

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Gather asks every server for the reflexive transport address of the socket
// and returns the candidates of the link: the host candidates given, then each
// distinct reflexive address. Without host candidates the socket's own address
// is one, unless it is a wildcard. Servers that do not answer before ctx ends
// are left out. The behavior is what [Classify] makes of the answers.
//
// The result is true now: gather again before an attempt that follows a change
// of the network, such as a restarted router.
func (m *Mux) Gather(ctx context.Context, host []netip.AddrPort, servers []netip.AddrPort) ([]Candidate, Behavior) {
	if len(host) == 0 && !m.local.Addr().IsUnspecified() {
		host = []netip.AddrPort{m.local}
	}
	seen, other := m.observe(ctx, servers)
	if b := Classify(m.base(host, seen), seen); b.Mapping.may(EndpointIndependent) && !b.Mapping.Known() {
		// The servers have one address, and one of them knows of another.
		further, _ := m.observeSoon(ctx, m.alternates(servers, other))
		seen = append(seen, further...)
	}
	var list []Candidate
	add := func(kind Kind, a netip.AddrPort) {
		if len(list) < maxCandidates && !slices.ContainsFunc(list, func(c Candidate) bool { return c.Addr == a }) {
			list = append(list, Candidate{Addr: a, Kind: kind})
		}
	}
	for _, a := range host {
		add(KindHost, canonical(a))
	}
	for _, o := range seen {
		if o.Mapped.IsValid() {
			add(KindServerReflexive, o.Mapped)
		}
	}
	return list, Classify(m.base(host, seen), seen)
}

// base returns the address that checks leave from, as far as it is known: a
// wildcard socket's is the host address that a server saw, or else the first.
func (m *Mux) base(host []netip.AddrPort, seen []Observation) netip.AddrPort {
	if !m.local.Addr().IsUnspecified() || len(host) == 0 {
		return m.local
	}
	for _, h := range host {
		if slices.ContainsFunc(seen, func(o Observation) bool { return o.Mapped == canonical(h) }) {
			return canonical(h)
		}
	}
	return canonical(host[0])
}

// alternates returns the transport addresses at which the mapping of the socket
// tells the most, of a server that named an alternate address: that address, if
// it is none of the servers'. The server names an address of its own choice; it
// gets no packet that a peer's candidate would not get.
func (m *Mux) alternates(servers, other []netip.AddrPort) (list []netip.AddrPort) {
	for _, o := range other {
		known := slices.ContainsFunc(servers, func(s netip.AddrPort) bool { return s.Addr() == o.Addr() })
		if _, err := m.filter.Check(o, false); err != nil || known || slices.Contains(list, o) || len(list) == maxAlternates {
			continue
		}
		list = append(list, o)
	}
	return list
}

// maxAlternates bounds the alternate addresses that servers send us to.
const maxAlternates = 2

// observeSoon is observe for servers that may be down: it takes no more than
// the time for two requests.
func (m *Mux) observeSoon(ctx context.Context, servers []netip.AddrPort) ([]Observation, []netip.AddrPort) {
	if len(servers) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*bindFirst)
	defer cancel()
	return m.observe(ctx, servers)
}

// observe runs one Binding transaction with each server, 5 ms apart, and
// returns the alternate addresses that they name as well.
func (m *Mux) observe(ctx context.Context, servers []netip.AddrPort) (seen []Observation, other []netip.AddrPort) {
	seen = make([]Observation, len(servers))
	others := make([]netip.AddrPort, len(servers))
	var wait sync.WaitGroup
	for i, s := range servers {
		seen[i].Server = s
		wait.Go(func() {
			select {
			case <-time.After(time.Duration(i) * checkSpacing):
			case <-ctx.Done():
				return
			}
			if a, err := m.transact(ctx, s, s, changeNothing, bindRequests); err == nil {
				seen[i].Mapped, others[i] = a.mapped, a.other
			}
		})
	}
	wait.Wait()
	for _, o := range others {
		if o.IsValid() {
			other = append(other, o)
		}
	}
	return seen, other
}
