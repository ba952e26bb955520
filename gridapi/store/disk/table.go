package disk

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A useTime says when a chunk was last read, in steps of useStep since the
// start of 2025.
type useTime uint32

const (
	useStep    = 16 * time.Second
	useBits    = 26 // 34 years
	maxUseTime = useTime(1<<useBits - 1)
	maxPins    = 1<<(32-useBits) - 1
)

var useEpoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func useTimeOf(t time.Time) useTime {
	n := t.Sub(useEpoch) / useStep
	return useTime(min(max(n, 0), time.Duration(maxUseTime)))
}

// A location says where a record lies: number of the segment, offset in it, and
// length of the payload. Zero is no location.
type location uint64

const (
	lengthBits  = 21
	offsetBits  = 25 // in units of recordAlign: segments of 256 MiB
	segmentBits = 64 - lengthBits - offsetBits

	maxSegmentSize = 1 << offsetBits * recordAlign
	maxSegments    = 1 << segmentBits
)

func locate(segment uint32, offset int64, length int) location {
	return location(segment)<<(lengthBits+offsetBits) | location(offset/recordAlign)<<lengthBits | location(length)
}

func (l location) segment() uint32 { return uint32(l >> (lengthBits + offsetBits)) }
func (l location) offset() int64 {
	return int64(l>>lengthBits&(1<<offsetBits-1)) * recordAlign
}
func (l location) length() int { return int(l & (1<<lengthBits - 1)) }

// A table is the index: open addressing with linear probing, in shards that
// grow one by one. It holds no IDs but 64 bits of a keyed hash of each, its
// tag, which nobody outside can make collide; whoever needs certainty reads the
// record. Several entries may have one tag.
//
// Its methods need the lock of the Disk, save touch and the pins, which need it
// for reading.
type table struct {
	shards [shardCount]shard
	count  int
}

const shardCount = 256

// A shard's three slices are one array of slots. A slot is free if its location
// is zero.
type shard struct {
	tags  []uint64
	at    []location
	state []uint32 // pins and useTime
	count int
}

// Slots are full at most this far, in parts of 64, and grow by a quarter then.
const shardFull = 54

func (t *table) shard(tag uint64) *shard { return &t.shards[tag>>56] }

// home is the slot at which the search for tag begins.
func (s *shard) home(tag uint64) int {
	hi, _ := bits.Mul64(tag<<8, uint64(len(s.at)))
	return int(hi)
}

// find calls f with each location of tag until it returns true, and returns
// that slot.
func (t *table) find(tag uint64, f func(location) bool) (s *shard, slot int, ok bool) {
	s = t.shard(tag)
	if len(s.at) == 0 {
		return s, 0, false
	}
	for i := s.home(tag); s.at[i] != 0; i = s.next(i) {
		if s.tags[i] == tag && f(s.at[i]) {
			return s, i, true
		}
	}
	return s, 0, false
}

func (s *shard) next(i int) int {
	if i++; i == len(s.at) {
		return 0
	}
	return i
}

// insert adds an entry.
func (t *table) insert(tag uint64, at location, used useTime) {
	s := t.shard(tag)
	if s.count*64 >= len(s.at)*shardFull {
		s.grow()
	}
	s.place(tag, at, uint32(used))
	s.count++
	t.count++
}

func (s *shard) place(tag uint64, at location, state uint32) {
	i := s.home(tag)
	for s.at[i] != 0 {
		i = s.next(i)
	}
	s.tags[i], s.at[i], s.state[i] = tag, at, state
}

func (s *shard) grow() {
	old := *s
	n := max(16, len(old.at)+len(old.at)/4)
	s.tags, s.at, s.state = make([]uint64, n), make([]location, n), make([]uint32, n)
	for i, at := range old.at {
		if at != 0 {
			s.place(old.tags[i], at, old.state[i])
		}
	}
}

// remove frees a slot of s, and moves what the search would no longer find.
func (t *table) remove(s *shard, i int) {
	t.count--
	s.count--
	for j := i; ; {
		s.at[i] = 0
		for {
			j = s.next(j)
			if s.at[j] == 0 {
				return
			}
			if home := s.home(s.tags[j]); i <= j && (home <= i || home > j) || i > j && home <= i && home > j {
				break
			}
		}
		s.tags[i], s.at[i], s.state[i] = s.tags[j], s.at[j], s.state[j]
		i = j
	}
}

// each calls f with every entry.
func (t *table) each(f func(tag uint64, at location, state uint32)) {
	for i := range t.shards {
		s := &t.shards[i]
		for j, at := range s.at {
			if at != 0 {
				f(s.tags[j], at, atomic.LoadUint32(&s.state[j]))
			}
		}
	}
}

// sweep removes every entry for which f returns true.
func (t *table) sweep(f func(at location, state uint32) bool) {
	for i := range t.shards {
		s := &t.shards[i]
		// Removing moves entries to where they are met again, or over the end
		// to where they have been met; f must not depend on the order.
		for j := 0; j < len(s.at); {
			if s.at[j] != 0 && f(s.at[j], s.state[j]) {
				t.remove(s, j)
			} else {
				j++
			}
		}
	}
}

// bytes is the memory of the slots.
func (t *table) bytes() (n int64) {
	for i := range t.shards {
		n += int64(len(t.shards[i].at)) * (8 + 8 + 4)
	}
	return n
}

func pinsOf(state uint32) int     { return int(state >> useBits) }
func usedOf(state uint32) useTime { return useTime(state) & maxUseTime }
func stateOf(pins int, u useTime) uint32 {
	return uint32(pins)<<useBits | uint32(u)
}

// touch notes that the entry was used at u.
func (s *shard) touch(i int, u useTime) {
	for {
		old := atomic.LoadUint32(&s.state[i])
		if usedOf(old) >= u || atomic.CompareAndSwapUint32(&s.state[i], old, stateOf(pinsOf(old), u)) {
			return
		}
	}
}

// pin adds n to the pins of an entry. A count that has reached the most stays
// there: such a chunk is kept until the next start.
func (s *shard) pin(i, n int) {
	for {
		old := atomic.LoadUint32(&s.state[i])
		pins := pinsOf(old)
		if pins == maxPins || pins+n < 0 {
			return
		}
		if atomic.CompareAndSwapUint32(&s.state[i], old, stateOf(pins+n, usedOf(old))) {
			return
		}
	}
}
