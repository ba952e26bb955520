package mpi

// Collective algorithms on teams. Thakur, Rabenseifner and Gropp, "Optimization
// of Collective Communication Operations in MPICH" (2005), describes those that
// have no other source here. All combine in an order that depends on the
// ranks alone, so that a result is the same to the last bit whatever the timing.

// Sizes from which on another algorithm is used, in bytes. Those of the paper,
// section 4; not tuned further.
const (
	longMessage   = 128 << 10 // bcast: scatter and allgather; reduce, allreduce: Rabenseifner
	pipelineShare = 8         // ranks from which on that pays
)

// barrier is the dissemination algorithm of Hensgen, Finkel and Manber (1988).
func barrier(t team) error {
	n := t.size()
	for d := 1; d < n; d *= 2 {
		if err := t.sendrecv((t.me+d)%n, nil, (t.me-d+n)%n, nil); err != nil {
			return err
		}
	}
	return nil
}

// barrierAll crosses between sites once in each direction.
func barrierAll(x *collective) error {
	s, ok := x.sites()
	if !ok {
		return barrier(x.everybody())
	}
	local, lead := s.local(-1)
	if err := gatherEmpty(local, lead); err != nil {
		return err
	}
	if l := s.leaders(-1); l.me >= 0 {
		if err := exchangeEmpty(l); err != nil {
			return err
		}
	}
	return bcastTree(local, lead, nil)
}

// gatherEmpty returns at root once all have called it: a binomial tree.
func gatherEmpty(t team, root int) error {
	n := t.size()
	v := (t.me - root + n) % n
	for mask := 1; mask < n; mask *= 2 {
		if v&mask != 0 {
			return t.send((v-mask+root)%n, nil)
		}
		if v+mask < n {
			if err := t.recv((v+mask+root)%n, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// exchangeEmpty has everybody hear of everybody directly.
func exchangeEmpty(t team) error { return exchange(t, nil, make([][]byte, t.size())) }

// exchange sends mine to all others and receives theirs into the slots of all:
// half a round trip, whatever the number of ranks.
func exchange(t team, mine []byte, all [][]byte) error {
	var requests []*Request
	var first error
	keep := func(r *Request, err error) {
		if err == nil {
			requests = append(requests, r)
		} else if first == nil {
			first = err
		}
	}
	for i, r := range t.ranks {
		if i != t.me && first == nil {
			keep(t.x.irecv(r, all[i]))
		}
	}
	for d := 1; d < t.size(); d++ {
		if first == nil {
			keep(t.x.isend(t.ranks[(t.me+d)%t.size()], mine))
		}
	}
	if first != nil {
		t.x.quit(first)
	}
	if err := t.x.wait(requests...); first == nil {
		first = err
	}
	if first == nil {
		copy(all[t.me], mine)
	}
	return first
}

// quit ends all parts of the call, so that they can be waited for.
func (x *collective) quit(err error) {
	x.c.p.mu.Lock()
	x.fail(err)
	x.c.p.mu.Unlock()
}

// bcastAll has everybody get root's b.
func bcastAll(x *collective, b []byte, root int) error {
	s, ok := x.sites()
	if !ok {
		return bcast(x.everybody(), root, b)
	}
	if l := s.leaders(root); l.me >= 0 {
		// Straight from the root: each link between sites is crossed once, and
		// nothing crosses two.
		if err := fan(l, x.c.sites[root], b); err != nil {
			return err
		}
	}
	local, lead := s.local(root)
	return bcast(local, lead, b)
}

// fan sends b from root to all others directly.
func fan(t team, root int, b []byte) error {
	if t.me != root {
		return t.recv(root, b)
	}
	var requests []*Request
	for i, r := range t.ranks {
		if i == root {
			continue
		}
		q, err := t.x.isend(r, b)
		if err != nil {
			t.x.quit(err)
			t.x.wait(requests...)
			return err
		}
		requests = append(requests, q)
	}
	return t.x.wait(requests...)
}

// bcast chooses by size: a binomial tree, or scatter and allgather.
func bcast(t team, root int, b []byte) error {
	if len(b) < longMessage || t.size() < pipelineShare {
		return bcastTree(t, root, b)
	}
	return bcastScatter(t, root, b)
}

// bcastTree is a binomial tree.
func bcastTree(t team, root int, b []byte) error {
	n := t.size()
	v := (t.me - root + n) % n
	mask := 1
	for ; mask < n; mask *= 2 {
		if v&mask != 0 {
			if err := t.recv((v-mask+root)%n, b); err != nil {
				return err
			}
			break
		}
	}
	for mask /= 2; mask > 0; mask /= 2 {
		if v+mask < n {
			if err := t.send((v+mask+root)%n, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// blocks divides size bytes into n, of whole elements.
func blocks(size, element, n int) []int {
	at := make([]int, n+1)
	count := size / element
	for i := range at {
		at[i] = count * i / n * element
	}
	return at
}

// bcastScatter gives each rank a block and has them gather in a ring (van de
// Geijn).
func bcastScatter(t team, root int, b []byte) error {
	n := t.size()
	at := blocks(len(b), 1, n)
	v := (t.me - root + n) % n
	// Binomial scatter: who holds the blocks of v to v+mask passes the upper half on.
	mask := 1
	for ; mask < n; mask *= 2 {
		if v&mask != 0 {
			if err := t.recv((v-mask+root)%n, b[at[v]:at[min(v+mask, n)]]); err != nil {
				return err
			}
			break
		}
	}
	for mask /= 2; mask > 0; mask /= 2 {
		if v+mask < n {
			if err := t.send((v+mask+root)%n, b[at[v+mask]:at[min(v+2*mask, n)]]); err != nil {
				return err
			}
		}
	}
	turned := team{x: t.x, me: v, ranks: make([]int, n)}
	for i := range turned.ranks {
		turned.ranks[i] = t.ranks[(i+root)%n]
	}
	return ring(turned, b, at)
}

// ring passes blocks on until everybody has all of them: b[at[i]:at[i+1]] is
// that of i. It needs no buffer and crosses each neighbours' link n-1 times.
func ring(t team, b []byte, at []int) error {
	n := t.size()
	right, left := (t.me+1)%n, (t.me-1+n)%n
	for s := range n - 1 {
		out, in := (t.me-s+n)%n, (t.me-s-1+2*n)%n
		if err := t.sendrecv(right, b[at[out]:at[out+1]], left, b[at[in]:at[in+1]]); err != nil {
			return err
		}
	}
	return nil
}

// doubling has everybody gather blocks of one size by recursive doubling; the
// team's size is a power of two.
func doubling(t team, b []byte, block int) error {
	for mask := 1; mask < t.size(); mask *= 2 {
		mine, theirs := t.me&^(mask-1), (t.me^mask)&^(mask-1)
		if err := t.sendrecv(t.me^mask, b[mine*block:(mine+mask)*block], t.me^mask, b[theirs*block:(theirs+mask)*block]); err != nil {
			return err
		}
	}
	return nil
}

func isPower(n int) bool { return n&(n-1) == 0 }

// gatherBlocks brings to root's all the blocks of mine, in the team's order: by a
// binomial tree, with short ones; directly with long ones.
func gatherBlocks(t team, root int, mine, all []byte) error {
	n, block := t.size(), len(mine)
	if block*n > longMessage {
		at := make([]int, n+1)
		for i := range at {
			at[i] = i * block
		}
		return gatherDirect(t, root, mine, all, at)
	}
	v := (t.me - root + n) % n
	room := make([]byte, 0, block)
	room = append(room, mine...)
	mask := 1
	for ; mask < n; mask *= 2 {
		if v&mask != 0 {
			if err := t.send((v-mask+root)%n, room); err != nil {
				return err
			}
			return nil
		}
		if v+mask < n {
			have := len(room)
			room = append(room, make([]byte, block*(min(v+2*mask, n)-v-mask))...)
			if err := t.recv((v+mask+root)%n, room[have:]); err != nil {
				return err
			}
		}
	}
	for i := range n {
		r := (i + root) % n
		copy(all[r*block:(r+1)*block], room[i*block:])
	}
	return nil
}

// gatherDirect brings to root's all the blocks of mine; that of i goes to
// all[at[i]:at[i+1]].
func gatherDirect(t team, root int, mine, all []byte, at []int) error {
	if t.me != root {
		return t.send(root, mine)
	}
	if len(mine) != at[root+1]-at[root] {
		return fault(ErrCount, t.x.name, nil)
	}
	var requests []*Request
	for i, r := range t.ranks {
		if i == root {
			copy(all[at[i]:at[i+1]], mine)
			continue
		}
		q, err := t.x.irecv(r, all[at[i]:at[i+1]])
		if err != nil {
			t.x.quit(err)
			t.x.wait(requests...)
			return err
		}
		requests = append(requests, q)
	}
	return t.x.wait(requests...)
}

// gatherAll is gather on a communicator: each site's leader brings its site's
// blocks in one message.
func gatherAll(x *collective, root int, mine, all []byte) error {
	s, ok := x.sites()
	block := len(mine)
	if !ok || block*x.c.Size() > longMessage {
		return gatherBlocks(x.everybody(), root, mine, all)
	}
	local, lead := s.local(root)
	here := make([]byte, block*local.size())
	if err := gatherBlocks(local, lead, mine, here); err != nil {
		return err
	}
	l := s.leaders(root)
	if l.me < 0 {
		return nil
	}
	at := make([]int, l.size()+1)
	for i, m := range s.members {
		at[i+1] = at[i] + len(m)*block
	}
	bySite := make([]byte, at[l.size()])
	if err := gatherDirect(l, x.c.sites[root], here, bySite, at); err != nil || x.c.rank != root {
		return err
	}
	s.spread(bySite, all, at, block)
	return nil
}

// spread copies blocks in the order of sites to the order of ranks.
func (s sites) spread(bySite, all []byte, at []int, block int) {
	for i, m := range s.members {
		for j, r := range m {
			copy(all[r*block:(r+1)*block], bySite[at[i]+j*block:])
		}
	}
}

// scatterDirect sends b[at[i]:at[i+1]] of root's b to mine of i.
func scatterDirect(t team, root int, b []byte, at []int, mine []byte) error {
	if t.me != root {
		return t.recv(root, mine)
	}
	var requests []*Request
	for i, r := range t.ranks {
		if i == root {
			continue
		}
		q, err := t.x.isend(r, b[at[i]:at[i+1]])
		if err != nil {
			t.x.quit(err)
			t.x.wait(requests...)
			return err
		}
		requests = append(requests, q)
	}
	if err := t.x.wait(requests...); err != nil {
		return err
	}
	if len(mine) != at[root+1]-at[root] {
		return fault(ErrCount, t.x.name, nil)
	}
	copy(mine, b[at[root]:at[root+1]])
	return nil
}

// scatterBlocks sends the block of i of root's all to mine of i: by a binomial
// tree with short ones, directly with long ones.
func scatterBlocks(t team, root int, all, mine []byte) error {
	n, block := t.size(), len(mine)
	if block*n > longMessage {
		at := make([]int, n+1)
		for i := range at {
			at[i] = i * block
		}
		return scatterDirect(t, root, all, at, mine)
	}
	v := (t.me - root + n) % n
	var room []byte
	mask := 1
	if v == 0 {
		for i := range n {
			r := (i + root) % n
			room = append(room, all[r*block:(r+1)*block]...)
		}
		for mask < n {
			mask *= 2
		}
	}
	for ; v != 0 && mask < n; mask *= 2 {
		if v&mask != 0 {
			room = make([]byte, block*(min(v+mask, n)-v))
			if err := t.recv((v-mask+root)%n, room); err != nil {
				return err
			}
			break
		}
	}
	for mask /= 2; mask > 0; mask /= 2 {
		if v+mask < n {
			if err := t.send((v+mask+root)%n, room[mask*block:block*(min(v+2*mask, n)-v)]); err != nil {
				return err
			}
		}
	}
	copy(mine, room[:block])
	return nil
}

// scatterAll is scatter on a communicator: one message for each site.
func scatterAll(x *collective, root int, all, mine []byte) error {
	s, ok := x.sites()
	block := len(mine)
	if !ok || block*x.c.Size() > longMessage {
		return scatterBlocks(x.everybody(), root, all, mine)
	}
	l := s.leaders(root)
	local, lead := s.local(root)
	here := make([]byte, block*local.size())
	if l.me >= 0 {
		at := make([]int, l.size()+1)
		for i, m := range s.members {
			at[i+1] = at[i] + len(m)*block
		}
		var bySite []byte
		if x.c.rank == root {
			bySite = make([]byte, at[l.size()])
			for i, m := range s.members {
				for j, r := range m {
					copy(bySite[at[i]+j*block:at[i]+(j+1)*block], all[r*block:])
				}
			}
		}
		if err := scatterDirect(l, x.c.sites[root], bySite, at, here); err != nil {
			return err
		}
	}
	return scatterBlocks(local, lead, here, mine)
}

// allgather gives everybody the blocks of all, in the order of ranks.
func allgather(x *collective, mine, all []byte) error {
	n, block := x.c.Size(), len(mine)
	at := make([]int, n+1)
	for i := range at {
		at[i] = i * block
	}
	if s, ok := x.sites(); ok {
		return allgatherSites(s, mine, all)
	}
	copy(all[at[x.c.rank]:], mine)
	t := x.everybody()
	switch {
	case block*n <= longMessage && isPower(n):
		return doubling(t, all, block)
	case block*n <= longMessage:
		return bruck(t, all, block)
	}
	return ring(t, all, at)
}

// bruck gathers short blocks in the logarithm of n steps for any n (Bruck et
// al., 1997).
func bruck(t team, all []byte, block int) error {
	n := t.size()
	room := make([]byte, block*n)
	copy(room, all[t.me*block:(t.me+1)*block])
	for d := 1; d < n; d *= 2 {
		k := min(d, n-d)
		if err := t.sendrecv((t.me-d+n)%n, room[:k*block], (t.me+d)%n, room[d*block:(d+k)*block]); err != nil {
			return err
		}
	}
	for i := range n {
		r := (t.me + i) % n
		copy(all[r*block:(r+1)*block], room[i*block:])
	}
	return nil
}

func allgatherSites(s sites, mine, all []byte) error {
	block := len(mine)
	local, lead := s.local(-1)
	here := make([]byte, block*local.size())
	if err := gatherBlocks(local, lead, mine, here); err != nil {
		return err
	}
	at := make([]int, len(s.members)+1)
	for i, m := range s.members {
		at[i+1] = at[i] + len(m)*block
	}
	bySite := make([]byte, len(all))
	if l := s.leaders(-1); l.me >= 0 {
		slots := make([][]byte, l.size())
		for i := range slots {
			slots[i] = bySite[at[i]:at[i+1]]
		}
		if err := exchange(l, here, slots); err != nil {
			return err
		}
	}
	if err := bcast(local, lead, bySite); err != nil {
		return err
	}
	s.spread(bySite, all, at, block)
	return nil
}

// alltoallDirect sends out[i] to i and receives in[i] from it. At most 16 are
// under way at a time, each rank with other partners.
func alltoallDirect(t team, out, in [][]byte) error {
	const inFlight = 16
	n := t.size()
	if len(out[t.me]) != len(in[t.me]) {
		return fault(ErrCount, t.x.name, nil)
	}
	copy(in[t.me], out[t.me])
	for d := 1; d < n; d += inFlight {
		var requests []*Request
		var first error
		keep := func(r *Request, err error) {
			if err == nil {
				requests = append(requests, r)
			} else if first == nil {
				first = err
				t.x.quit(err)
			}
		}
		for e := d; e < min(d+inFlight, n); e++ {
			from := (t.me - e + n) % n
			keep(t.x.irecv(t.ranks[from], in[from]))
		}
		for e := d; e < min(d+inFlight, n); e++ {
			to := (t.me + e) % n
			keep(t.x.isend(t.ranks[to], out[to]))
		}
		if err := t.x.wait(requests...); first == nil {
			first = err
		}
		if first != nil {
			return first
		}
	}
	return nil
}
