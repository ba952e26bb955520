package mpi

// A combiner is an operation on bytes: dst[i] = left[i] op right[i] for whole
// elements. dst may be left or right.
type combiner struct {
	combine     func(dst, left, right []byte)
	commutative bool
	element     int // bytes of one
}

// reduceTree combines everybody's b at root, into its b, in the order of the
// team: a binomial tree whose inner nodes hold runs of ranks. What others have
// in b is used up. With a root other than the first, the first hands the result on if
// the operation is not commutative.
func reduceTree(t team, root int, b []byte, op combiner) error {
	n := t.size()
	turn := root
	if !op.commutative {
		turn = 0
	}
	v := (t.me - turn + n) % n
	var in []byte
	for mask := 1; mask < n; mask *= 2 {
		if v&mask != 0 {
			if err := t.send((v-mask+turn)%n, b); err != nil {
				return err
			}
			break
		}
		if v+mask < n {
			if in == nil {
				in = make([]byte, len(b))
			}
			if err := t.recv((v+mask+turn)%n, in); err != nil {
				return err
			}
			op.combine(b, b, in)
		}
	}
	if turn == root {
		return nil
	}
	switch t.me {
	case turn:
		return t.send(root, b)
	case root:
		return t.recv(turn, b)
	}
	return nil
}

// reduceAll is reduce on a communicator: b becomes the result at root.
func reduceAll(x *collective, root int, b []byte, op combiner) error {
	if s, ok := x.sites(); ok && (op.commutative || s.inOrder()) {
		local, lead := s.local(root)
		if err := reduce(local, lead, b, op); err != nil {
			return err
		}
		l := s.leaders(root)
		if l.me < 0 {
			return nil
		}
		at := make([]int, l.size()+1)
		for i := range at {
			at[i] = i * len(b)
		}
		var parts []byte
		if x.c.rank == root {
			parts = make([]byte, at[l.size()])
		}
		if err := gatherDirect(l, x.c.sites[root], b, parts, at); err != nil || x.c.rank != root {
			return err
		}
		fold(b, parts, op)
		return nil
	}
	return reduce(x.everybody(), root, b, op)
}

// fold combines the parts, each as long as b, from left to right into b.
func fold(b, parts []byte, op combiner) {
	copy(b, parts)
	for at := len(b); at < len(parts) && len(b) > 0; at += len(b) {
		op.combine(b, b, parts[at:at+len(b)])
	}
}

// reduce chooses by size: a tree, or Rabenseifner's reduce-scatter and gather.
func reduce(t team, root int, b []byte, op combiner) error {
	if len(b) < longMessage || !op.commutative || t.size() < 4 || len(b)/op.element < t.size() {
		return reduceTree(t, root, b, op)
	}
	at := blocks(len(b), op.element, t.size())
	if err := reduceScatter(t, b, at, op); err != nil {
		return err
	}
	return gatherDirect(t, root, b[at[t.me]:at[t.me+1]], b, at)
}

// reduceScatter combines everybody's b so that each has the result of its block:
// recursive halving if the number of ranks is a power of two, otherwise a ring. The
// rest of b is used up.
func reduceScatter(t team, b []byte, at []int, op combiner) error {
	n := t.size()
	longest := 0
	for i := range n {
		longest = max(longest, at[i+1]-at[i])
	}
	if !isPower(n) {
		right, left := (t.me+1)%n, (t.me-1+n)%n
		in := make([]byte, longest)
		for s := range n - 1 {
			// The sum of block k starts at k+1 and goes round to k.
			out, to := (t.me-s-1+2*n)%n, (t.me-s-2+2*n)%n
			part := b[at[to]:at[to+1]]
			if err := t.sendrecv(right, b[at[out]:at[out+1]], left, in[:len(part)]); err != nil {
				return err
			}
			op.combine(part, in[:len(part)], part)
		}
		return nil
	}
	in := make([]byte, len(b)/2+longest+op.element)
	lo, hi := 0, n
	for mask := n / 2; mask > 0; mask /= 2 {
		mid := (lo + hi) / 2
		partner := t.me ^ mask
		keepLo, keepHi, giveLo, giveHi := lo, mid, mid, hi
		if t.me >= mid {
			keepLo, keepHi, giveLo, giveHi = mid, hi, lo, mid
		}
		part := b[at[keepLo]:at[keepHi]]
		if err := t.sendrecv(partner, b[at[giveLo]:at[giveHi]], partner, in[:len(part)]); err != nil {
			return err
		}
		if partner < t.me {
			op.combine(part, in[:len(part)], part)
		} else {
			op.combine(part, part, in[:len(part)])
		}
		lo, hi = keepLo, keepHi
	}
	return nil
}

// allreduceDoubling is recursive doubling: everybody combines the same runs of
// ranks in the same order, so that all have the same bits. Of the ranks beyond
// a power of two each hands its part to a neighbour first.
func allreduceDoubling(t team, b []byte, op combiner) error {
	n := t.size()
	power := 1
	for power*2 <= n {
		power *= 2
	}
	extra := n - power
	in := make([]byte, len(b))
	v := t.me - extra // place among the power; the first 2*extra ranks are pairs
	if t.me < 2*extra {
		v = t.me / 2
		if t.me%2 == 1 {
			if err := t.send(t.me-1, b); err != nil {
				return err
			}
			return t.recv(t.me-1, b)
		}
		if err := t.recv(t.me+1, in); err != nil {
			return err
		}
		op.combine(b, b, in)
	}
	place := func(v int) int {
		if v < extra {
			return 2 * v
		}
		return v + extra
	}
	for mask := 1; mask < power; mask *= 2 {
		partner := v ^ mask
		if err := t.sendrecv(place(partner), b, place(partner), in); err != nil {
			return err
		}
		if partner < v {
			op.combine(b, in, b)
		} else {
			op.combine(b, b, in)
		}
	}
	if t.me < 2*extra {
		return t.send(t.me+1, b)
	}
	return nil
}

// allreduce chooses by size: recursive doubling, or Rabenseifner's
// reduce-scatter and allgather, which moves each byte twice whatever the number
// of ranks (a ring where that is no power of two).
func allreduce(t team, b []byte, op combiner) error {
	n := t.size()
	if n == 1 {
		return nil
	}
	if len(b) < longMessage || !op.commutative || n < 4 || len(b)/op.element < n {
		return allreduceDoubling(t, b, op)
	}
	at := blocks(len(b), op.element, n)
	if err := reduceScatter(t, b, at, op); err != nil {
		return err
	}
	if !isPower(n) {
		return ring(t, b, at)
	}
	for mask := 1; mask < n; mask *= 2 {
		mine, theirs := t.me&^(mask-1), (t.me^mask)&^(mask-1)
		if err := t.sendrecv(t.me^mask, b[at[mine]:at[mine+mask]], t.me^mask, b[at[theirs]:at[theirs+mask]]); err != nil {
			return err
		}
	}
	return nil
}

// allreduceAll is allreduce on a communicator. Between sites, leaders send
// each other their sites' parts at once: half a round trip.
func allreduceAll(x *collective, b []byte, op combiner) error {
	s, ok := x.sites()
	if !ok || !op.commutative && !s.inOrder() {
		return allreduce(x.everybody(), b, op)
	}
	local, lead := s.local(-1)
	if err := reduce(local, lead, b, op); err != nil {
		return err
	}
	if l := s.leaders(-1); l.me >= 0 {
		if l.size() > 8 || len(b) > EagerLimit {
			if err := allreduce(l, b, op); err != nil {
				return err
			}
		} else {
			parts := make([]byte, len(b)*l.size())
			slots := make([][]byte, l.size())
			for i := range slots {
				slots[i] = parts[i*len(b) : (i+1)*len(b)]
			}
			if err := exchange(l, b, slots); err != nil {
				return err
			}
			fold(b, parts, op)
		}
	}
	return bcast(local, lead, b)
}

// reduceScatterAll leaves in mine the result of this rank's block of b.
func reduceScatterAll(x *collective, b []byte, at []int, mine []byte, op combiner) error {
	t := x.everybody()
	_, several := x.sites()
	if op.commutative && !several {
		if err := reduceScatter(t, b, at, op); err != nil {
			return err
		}
		copy(mine, b[at[t.me]:at[t.me+1]])
		return nil
	}
	if err := reduceAll(x, 0, b, op); err != nil {
		return err
	}
	return scatterDirect(t, 0, b, at, mine)
}

// scan combines the b of all ranks up to this one: after Hillis and Steele
// (1986), runs of ranks double. An exclusive scan leaves out the own one; at the
// first rank it leaves b alone.
func scan(t team, b []byte, op combiner, exclusive bool) error {
	n := t.size()
	run := append([]byte(nil), b...)  // of the ranks since the run's start, this one included
	before := make([]byte, 0, len(b)) // of all ranks before this one that are known
	have := false
	in := make([]byte, len(b))
	for d := 1; d < n; d *= 2 {
		var out, from *Request
		var err error
		if t.me >= d {
			if from, err = t.x.irecv(t.ranks[t.me-d], in); err != nil {
				return err
			}
		}
		if t.me+d < n {
			if out, err = t.x.isend(t.ranks[t.me+d], run); err != nil {
				t.x.quit(err)
				t.x.wait(from)
				return err
			}
		}
		if err := t.x.wait(from, out); err != nil {
			return err
		}
		if t.me >= d {
			if have {
				op.combine(before, in, before)
			} else {
				before, have = append(before[:0], in...), true
			}
			next := make([]byte, len(run))
			op.combine(next, in, run)
			run = next
		}
	}
	switch {
	case !exclusive:
		copy(b, run)
	case have:
		copy(b, before)
	}
	return nil
}
