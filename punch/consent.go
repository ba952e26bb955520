package punch

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Searches through hard NATs send many packets to ports that nobody has named.
// They begin only with the peer's consent, its plan, and only toward an address
// that the rendezvous has seen the peer at; otherwise they would be a port scan
// of a third party.

const (
	// maxProven bounds the addresses that a peer has proven.
	maxProven = 4
	// searchRest is the pause after a search that found a path.
	searchRest = 10 * time.Second
)

// searchAgain are the pauses after searches that found none; the last repeats.
var searchAgain = [...]time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute}

// SearchStats counts what searches through hard NATs did, of one
// agent or of all that share a [Budget].
type SearchStats struct {
	Begun    uint64 // rounds
	Won      uint64 // found a pair
	Probes   uint64 // sent
	Forged   uint64 // received under a wrong password
	Unproven uint64 // not begun: the peer has not proven its address
	Refused  uint64 // not begun: address filter, or too many sockets
	TooSoon  uint64 // not begun: too soon after the last one
}

// A searchCount is the index of one counter.
type searchCount int

const (
	searchBegun searchCount = iota
	searchWon
	searchProbes
	searchForged
	searchUnproven
	searchRefused
	searchTooSoon
	searchCounts
)

type searchCounters [searchCounts]atomic.Uint64

func (c *searchCounters) stats() SearchStats {
	return SearchStats{
		Begun: c[searchBegun].Load(), Won: c[searchWon].Load(), Probes: c[searchProbes].Load(), Forged: c[searchForged].Load(),
		Unproven: c[searchUnproven].Load(), Refused: c[searchRefused].Load(), TooSoon: c[searchTooSoon].Load(),
	}
}

// Searches returns the counters of all searches that share the budget.
func (b *Budget) Searches() SearchStats { return b.searches.stats() }

// count counts for the agent and for the node.
func (a *attempt) count(c searchCount) {
	a.searchStats[c].Add(1)
	a.mux.pace.budget.searches[c].Add(1)
}

// Searches returns the counters of the searches through hard NATs.
func (a *Agent) Searches() SearchStats { return a.search.stats() }

// Proven notes that the peer was seen at an address by somebody we trust with
// that: the rendezvous.
func (a *Agent) Proven(addr netip.Addr) {
	addr = addr.Unmap().WithZone("")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proven = slices.DeleteFunc(a.proven, func(x netip.Addr) bool { return x == addr })
	if len(a.proven) == maxProven {
		a.proven = slices.Delete(a.proven, 0, 1)
	}
	a.proven = append(a.proven, addr)
}

func (a *Agent) isProven(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.proven, addr.Unmap())
}

// admitter returns what decides whether an attempt may search, nil where nobody
// vouches for addresses.
func (a *Agent) admitter() func() bool {
	if a.cfg.Prove == nil {
		return nil
	}
	return func() bool {
		now := time.Now()
		a.mu.Lock()
		defer a.mu.Unlock()
		if now.Before(a.searchDue) {
			return false
		}
		// Until the search has ended.
		a.searchDue = now.Add(searchAgain[min(a.searchFailures, len(searchAgain)-1)])
		return true
	}
}

// searched notes how a search ended.
func (a *Agent) searched(found bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if found {
		a.searchFailures, a.searchDue = 0, now.Add(searchRest)
		return
	}
	a.searchDue = now.Add(searchAgain[min(a.searchFailures, len(searchAgain)-1)])
	a.searchFailures++
}
