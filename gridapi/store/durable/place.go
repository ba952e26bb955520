package durable

import (
	"cmp"
	"slices"

	"github.com/instantgrid/instantgrid/gridapi/store/internal/hrw"
)

// A Member may hold shards.
type Member struct {
	Name string
	// Site is equal for members that share a LAN, and so their fate. Empty: a
	// site of its own.
	Site string
	// Uptime is the part of the time that the member is there, from zero to
	// one: members with more hold more. Zero means unknown, and counts as a
	// half.
	Uptime float64
}

func (m Member) site() string {
	if m.Site == "" {
		return "\x00" + m.Name
	}
	return m.Site
}

func (m Member) weight() float64 {
	if m.Uptime <= 0 {
		return 0.5
	}
	return max(0.01, min(m.Uptime, 1))
}

// ranked returns members in the order in which they should hold the object.
func ranked(object [32]byte, members []Member) []Member {
	type scored struct {
		Member
		score float64
	}
	list := make([]scored, len(members))
	for i, m := range members {
		list[i] = scored{m, hrw.Weighted(object, hrw.NameOf(m.Name), m.weight())}
	}
	slices.SortFunc(list, func(a, b scored) int {
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	out := make([]Member, len(list))
	for i, x := range list {
		out[i] = x.Member
	}
	return out
}

// place chooses holders for as many slots as there are members: each on a site
// of its own first, and on sites that have one already only when the sites do
// not suffice. taken are sites and members that hold others of its shards.
func place(object [32]byte, members []Member, slots int, taken []Member) (holders []string) {
	sites, names := make(map[string]int), make(map[string]bool)
	for _, m := range taken {
		sites[m.site()]++
		names[m.Name] = true
	}
	order := ranked(object, members)
	for most := 0; len(holders) < slots; most++ {
		more := false
		for _, m := range order {
			if names[m.Name] {
				continue
			}
			if sites[m.site()] > most {
				more = true
				continue
			}
			sites[m.site()]++
			names[m.Name] = true
			if holders = append(holders, m.Name); len(holders) == slots {
				break
			}
		}
		if !more {
			break
		}
	}
	return holders
}
