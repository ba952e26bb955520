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
	seen := m.observe(ctx, servers)
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

// observe runs one Binding transaction with each server, 5 ms apart.
func (m *Mux) observe(ctx context.Context, servers []netip.AddrPort) []Observation {
	seen := make([]Observation, len(servers))
	var wait sync.WaitGroup
	for i, s := range servers {
		seen[i].Server = s
		wait.Go(func() {
			select {
			case <-time.After(time.Duration(i) * checkSpacing):
			case <-ctx.Done():
				return
			}
			if mapped, err := m.Bind(ctx, s); err == nil {
				seen[i].Mapped = mapped
			}
		})
	}
	wait.Wait()
	return seen
}
