package ri2n

import (
	"math"
	"slices"
	"sort"
)

// An interval is the half-open range [start, end) of stream offsets.
type interval struct{ start, end uint64 }

// intervalKeep is the capacity that an empty set may keep, so that packets
// which change places now and then do not allocate each time. It is a guess.
const intervalKeep = 8

// An intervalSet is a set of offsets, held as sorted intervals that neither
// overlap nor touch. The zero value is the empty set. An empty set keeps room
// for at most intervalKeep intervals.
type intervalSet struct {
	list []interval
	sum  uint64 // offsets in the set
}

// add puts [start, end) into the set. An empty range changes nothing.
func (s *intervalSet) add(start, end uint64) {
	if start >= end {
		return
	}
	i, j := s.touching(start, end)
	if i == j {
		s.list = slices.Insert(s.list, i, interval{start, end})
		s.sum += end - start
		return
	}
	merged := interval{min(start, s.list[i].start), max(end, s.list[j-1].end)}
	for _, v := range s.list[i:j] {
		s.sum -= v.end - v.start
	}
	s.sum += merged.end - merged.start
	s.list[i] = merged
	s.list = slices.Delete(s.list, i+1, j)
}

// remove takes [start, end) out of the set.
func (s *intervalSet) remove(start, end uint64) {
	if start >= end || len(s.list) == 0 {
		return
	}
	// The intervals i..j-1 share at least one offset with the range.
	i := sort.Search(len(s.list), func(k int) bool { return s.list[k].end > start })
	j := i
	for j < len(s.list) && s.list[j].start < end {
		s.sum -= min(end, s.list[j].end) - max(start, s.list[j].start)
		j++
	}
	if i == j {
		return
	}
	left := interval{s.list[i].start, start}
	right := interval{end, s.list[j-1].end}
	switch keepLeft, keepRight := left.start < left.end, right.start < right.end; {
	case keepLeft && keepRight && j == i+1:
		s.list[i] = left
		s.list = slices.Insert(s.list, j, right)
		return
	case keepLeft && keepRight:
		s.list[i], s.list[j-1] = left, right
		i, j = i+1, j-1
	case keepLeft:
		s.list[i] = left
		i++
	case keepRight:
		s.list[j-1] = right
		j--
	}
	s.list = slices.Delete(s.list, i, j)
	s.trim()
}

// contains reports whether every offset of [start, end) is in the set. It
// holds for an empty range.
func (s *intervalSet) contains(start, end uint64) bool {
	if start >= end {
		return true
	}
	i := sort.Search(len(s.list), func(k int) bool { return s.list[k].end > start })
	return i < len(s.list) && s.list[i].start <= start && end <= s.list[i].end
}

// first returns the lowest interval, or false if the set is empty.
func (s *intervalSet) first() (interval, bool) {
	if len(s.list) == 0 {
		return interval{}, false
	}
	return s.list[0], true
}

// takeFirst removes and returns the lowest interval, or its lowest max offsets
// if it is longer. It returns false if the set is empty or max is zero.
func (s *intervalSet) takeFirst(max uint64) (interval, bool) {
	if len(s.list) == 0 || max == 0 {
		return interval{}, false
	}
	v := s.list[0]
	if v.end-v.start > max {
		v.end = v.start + max
		s.list[0].start = v.end
	} else {
		s.list = slices.Delete(s.list, 0, 1)
	}
	s.sum -= v.end - v.start
	s.trim()
	return v, true
}

// advance moves a mark below the set from edge to end, and on over what the set
// holds without a hole from there. It returns the mark and removes all below
// it.
func (s *intervalSet) advance(edge, end uint64) uint64 {
	if len(s.list) == 0 {
		return end
	}
	s.add(edge, end)
	v, _ := s.takeFirst(math.MaxUint64)
	return v.end
}

// len returns the number of intervals.
func (s *intervalSet) len() int { return len(s.list) }

// total returns the number of offsets in the set.
func (s *intervalSet) total() uint64 { return s.sum }

// touching returns the indices i <= j such that the intervals i..j-1 overlap
// or touch [start, end).
func (s *intervalSet) touching(start, end uint64) (i, j int) {
	n := len(s.list)
	if n == 0 || s.list[n-1].end < start { // the usual case: behind the last
		return n, n
	}
	i = sort.Search(n, func(k int) bool { return s.list[k].end >= start })
	j = i
	for j < n && s.list[j].start <= end {
		j++
	}
	return i, j
}

// trim gives the memory of an empty set back if it is more than a little.
func (s *intervalSet) trim() {
	if len(s.list) == 0 && cap(s.list) > intervalKeep {
		s.list = nil
	}
}

// overlapping returns the intervals that share an offset with [start, end). It
// is a view of the set, valid until the set changes.
func (s *intervalSet) overlapping(start, end uint64) []interval {
	i := sort.Search(len(s.list), func(k int) bool { return s.list[k].end > start })
	j := i
	for j < len(s.list) && s.list[j].start < end {
		j++
	}
	return s.list[i:j]
}
