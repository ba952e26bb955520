package mpi

import "slices"

// A team is some ranks in the midst of a collective call, in an order that all
// of them know. Algorithms run on teams: on all ranks, on those of one site, on
// one of each site.
type team struct {
	x     *collective
	ranks []int // of the communicator
	me    int   // index of this process
}

// everybody is the team of all ranks.
func (x *collective) everybody() team {
	return team{x, identity(len(x.c.group)), x.c.rank}
}

func identity(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func (t team) size() int { return len(t.ranks) }

func (t team) send(to int, b []byte) error   { return t.x.send(t.ranks[to], b) }
func (t team) recv(from int, b []byte) error { return t.x.recv(t.ranks[from], b) }
func (t team) sendrecv(to int, out []byte, from int, in []byte) error {
	return t.x.sendrecv(t.ranks[to], out, t.ranks[from], in)
}

// sites splits the ranks of a communicator into a team for each site. Only one
// contains this process.
type sites struct {
	x       *collective
	members [][]int // ranks of each site, ascending
	mine    int
}

// sites returns the sites, ok only if there are several and one has several ranks.
func (x *collective) sites() (s sites, ok bool) {
	c := x.c
	if c.sites == nil {
		return s, false
	}
	s = sites{x: x, members: make([][]int, c.Sites()), mine: c.sites[c.rank]}
	for r, site := range c.sites {
		s.members[site] = append(s.members[site], r)
	}
	return s, len(s.members) < len(c.group)
}

// inOrder reports whether the sites are runs of ranks, so that what is combined
// site by site is combined in the order of ranks.
func (s sites) inOrder() bool { return slices.IsSorted(s.x.c.sites) }

// local is the team of this process's site, led by its lowest rank, or by root
// if that is there.
func (s sites) local(root int) (t team, leader int) {
	t = team{x: s.x, ranks: s.members[s.mine], me: slices.Index(s.members[s.mine], s.x.c.rank)}
	return t, max(0, slices.Index(t.ranks, root))
}

// leaders is the team of one rank of each site: the lowest, or root. Its me is
// negative for those who are none.
func (s sites) leaders(root int) team {
	t := team{x: s.x, me: -1}
	for i, m := range s.members {
		r := m[0]
		if root >= 0 && s.x.c.sites[root] == i {
			r = root
		}
		t.ranks = append(t.ranks, r)
		if r == s.x.c.rank {
			t.me = i
		}
	}
	return t
}
