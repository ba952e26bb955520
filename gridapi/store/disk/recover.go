package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// recover finds what is held: what the snapshot says of the segments that are
// there, and what was appended to them since.
func (d *Disk) recover() error {
	if err := d.openSegments(); err != nil {
		return err
	}
	covered, err := d.loadSnapshot()
	if err != nil {
		return err
	}
	numbers := make([]uint32, 0, len(d.segments))
	for n := range d.segments {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		if err := d.recoverSegment(d.segments[n], max(covered[n], segmentHeaderLen)); err != nil {
			return err
		}
	}
	d.evict(d.cfg.Quota - d.cfg.SegmentSize) // the quota may have become smaller
	return nil
}

// openSegments opens the files that are segments. One without a header was
// being made when the program ended, and is removed.
func (d *Disk) openSegments() error {
	names, err := d.cfg.files.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		number, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		g, err := openSegment(d.cfg.files, number)
		if err == errNoRecord {
			d.cfg.Logger.Warn("a file in the store is no segment, and is removed", "file", name)
			if err := d.cfg.files.Remove(name); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		d.segments[number] = g
	}
	return nil
}

// loadSnapshot fills the index from the snapshot, and returns how much of each
// segment that covers. Without a snapshot, or with a damaged one, it is nothing.
func (d *Disk) loadSnapshot() (map[uint32]int64, error) {
	d.hash = newTagKey()
	f, err := d.cfg.files.Open(snapshotName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	var entries []entry
	k, covers, err := readSnapshot(io.NewSectionReader(f, 0, size), size, func(e entry) { entries = append(entries, e) })
	if err != nil {
		d.cfg.Logger.Warn("the index of the store is damaged, and is made anew from the segments")
		return nil, nil
	}
	d.hash = k
	covered := make(map[uint32]int64)
	for _, c := range covers {
		g := d.segments[c.number]
		if g == nil || g.generation != c.generation {
			continue // it was compacted since, and its number is another's
		}
		if size, err := g.file.Size(); err != nil {
			return nil, err
		} else if size < c.end {
			continue // somebody has cut it off: look at every record
		}
		covered[c.number] = c.end
	}
	for _, e := range entries {
		n := e.at.segment()
		if e.at.length() == 0 || e.at.offset() < segmentHeaderLen || e.at.offset()+recordSize(e.at.length()) > covered[n] {
			continue
		}
		d.index.insert(e.tag, e.at, usedOf(e.state))
		d.segments[n].live += recordSize(e.at.length())
	}
	return covered, nil
}

// recoverSegment looks at the records from offset on, and cuts off what is
// behind the last whole one.
func (d *Disk) recoverSegment(g *segment, offset int64) error {
	end, err := g.scan(offset, func(offset int64, r record) {
		tag := d.hash.tag(r.id)
		at := locate(g.number, offset, r.length)
		_, _, held := d.index.find(tag, func(l location) bool {
			other, err := d.segments[l.segment()].identify(l)
			return err == nil && other.id == r.id
		})
		if held {
			return // a copy that compaction was making, or has made
		}
		d.index.insert(tag, at, r.used)
		g.live += r.size()
	})
	if err != nil {
		return err
	}
	size, err := g.file.Size()
	if err != nil {
		return err
	}
	if size > end {
		if size-end >= recordAlign {
			d.cfg.Logger.Info("the store was not closed; what was being written is dropped", "segment", segmentName(g.number), "bytes", size-end)
		}
		if err := g.file.Truncate(end); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	g.end.Store(end)
	if end > offset {
		// The program may have ended before the disk had it, and the next Put of
		// such a chunk relies on what is found here.
		if err := g.file.Sync(); err != nil {
			return err
		}
		d.unsaved.Add(end - offset)
	}
	g.synced = end
	d.physical += end
	if end < d.cfg.SegmentSize && (d.active == nil || d.active.end.Load() < end) {
		d.active = g
	}
	return nil
}
