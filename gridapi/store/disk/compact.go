package disk

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Room is made in two steps. Eviction forgets the chunks that were not used for
// longest; compaction moves what is left in a segment that is mostly forgotten
// and removes the file. Puts leave one segment's worth of the quota free, which
// compaction needs.

// evictPart is the part of the quota that one eviction frees, so that puts into
// a full store do not evict one by one: a guess, 1/16.
const evictPart = 16

// compactBelow: a segment that holds less than this many 64ths of its bytes is
// compacted without need, when another one is.
const compactBelow = 32

// makeRoom frees room for n more bytes, and reports whether it is there.
func (d *Disk) makeRoom(n int64) bool {
	d.room.Lock()
	defer d.room.Unlock()
	limit := d.cfg.Quota - d.cfg.SegmentSize
	if d.fits(n, limit) {
		return true // somebody else has just made it
	}
	d.evict(limit - n - d.cfg.Quota/evictPart)
	for _, g := range d.emptiest() {
		if d.fits(n, limit) && (d.livePart(g) >= compactBelow) {
			break
		}
		if d.livePart(g) >= 63 || !d.compact(g) {
			break // it would free as good as nothing
		}
	}
	return d.fits(n, limit)
}

func (d *Disk) fits(n, limit int64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.physical+n+segmentHeaderLen <= limit
}

// livePart is how many 64ths of the segment the index knows.
func (d *Disk) livePart(g *segment) int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return g.live * 64 / max(1, g.end.Load())
}

// evict forgets unpinned chunks, the least recently used first, until at most
// goal bytes are live.
func (d *Disk) evict(goal int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var live int64
	for _, g := range d.segments {
		live += g.live
	}
	if live <= goal {
		return
	}
	// Bytes for each time of use, so that one pass finds the limit and a second
	// one forgets what is older.
	byTime := make(map[useTime]int64)
	d.index.each(func(_ uint64, at location, state uint32) {
		if pinsOf(state) == 0 {
			byTime[usedOf(state)] += recordSize(at.length())
		}
	})
	times := make([]useTime, 0, len(byTime))
	for u := range byTime {
		times = append(times, u)
	}
	slices.Sort(times)
	last, excess := maxUseTime, live-goal // of last, only excess bytes must go
	for _, u := range times {
		if excess <= byTime[u] {
			last = u
			break
		}
		excess -= byTime[u]
	}
	if last == maxUseTime {
		excess = math.MaxInt64
	}
	d.index.sweep(func(at location, state uint32) bool {
		if pinsOf(state) > 0 || usedOf(state) > last || usedOf(state) == last && excess <= 0 {
			return false
		}
		n := recordSize(at.length())
		if usedOf(state) == last {
			excess -= n
		}
		d.segments[at.segment()].live -= n
		d.counters.evicted.Add(1)
		return true
	})
}

// emptiest returns the segments that take no more records, those with the least
// in them first.
func (d *Disk) emptiest() []*segment {
	d.appending.Lock()
	active := d.active
	d.appending.Unlock()
	d.mu.RLock()
	defer d.mu.RUnlock()
	type dead struct {
		*segment
		part int64
	}
	var list []dead
	for _, g := range d.segments {
		if g != active {
			list = append(list, dead{g, g.live * 1024 / max(1, g.end.Load())})
		}
	}
	slices.SortFunc(list, func(a, b dead) int { return cmp.Compare(a.part, b.part) })
	sorted := make([]*segment, len(list))
	for i, x := range list {
		sorted[i] = x.segment
	}
	return sorted
}

// compact moves what g holds, and removes it. It reports false when that fails;
// then g stays, with what is left in it.
func (d *Disk) compact(g *segment) bool {
	var list []entry
	d.mu.RLock()
	d.index.each(func(tag uint64, at location, state uint32) {
		if at.segment() == g.number {
			list = append(list, entry{tag, at, state})
		}
	})
	d.mu.RUnlock()
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	buf := make([]byte, 0, recordHeaderLen+chunk.MaxSize)
	for _, e := range list {
		r, err := g.identify(e.at)
		var b []byte
		if err == nil {
			b, err = g.read(r.id, e.at, buf)
		}
		if err != nil {
			// A record that cannot be read now is forgotten only if its bytes
			// are wrong; otherwise the segment stays.
			if _, damaged := err.(*DamagedError); !damaged && err != errNoRecord {
				return false
			}
			d.counters.damaged.Add(1)
			d.remove(e.tag, e.at)
			continue
		}
		if !d.move(r.id, e.tag, e.at, b) {
			return false
		}
	}
	// The copies first, then the original.
	if d.Sync() != nil {
		return false
	}
	d.mu.Lock()
	if g.live != 0 {
		d.mu.Unlock()
		return false // an entry has come back by a failed fsync
	}
	delete(d.segments, g.number)
	d.physical -= g.end.Load()
	d.mu.Unlock()
	g.close()
	if err := d.cfg.files.Remove(segmentName(g.number)); err != nil {
		d.cfg.Logger.Warn("a segment of the store cannot be removed", "segment", segmentName(g.number), "err", err)
	}
	return true
}

// remove drops the entry with this tag and location.
func (d *Disk) remove(tag uint64, at location) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, i, ok := d.index.find(tag, func(l location) bool { return l == at }); ok {
		d.drop(s, i)
	}
}

// move appends a copy of the chunk at from, and has the entry lead there.
func (d *Disk) move(id chunk.ID, tag uint64, from location, sealed []byte) bool {
	d.appending.Lock()
	defer d.appending.Unlock()
	size := recordSize(len(sealed))
	g, full, err := d.roomFor(size, d.cfg.Quota)
	if err != nil || full {
		return false
	}
	if d.scratch == nil {
		d.scratch = make([]byte, 0, recordSize(chunk.MaxSize))
	}
	d.mu.RLock()
	s, i, ok := d.index.find(tag, func(l location) bool { return l == from })
	var used useTime
	if ok {
		used = usedOf(atomic.LoadUint32(&s.state[i]))
	}
	d.mu.RUnlock()
	if !ok {
		return true // forgotten meanwhile
	}
	offset, err := g.append(id, sealed, used, d.scratch)
	if err != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.physical += size
	if s, i, ok = d.index.find(tag, func(l location) bool { return l == from }); !ok {
		return true
	}
	d.segments[from.segment()].live -= size
	g.live += size
	s.at[i] = locate(g.number, offset, len(sealed))
	d.unsaved.Add(size)
	d.counters.moved.Add(1)
	return true
}
