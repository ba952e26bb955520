package disk

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// The index on the disk (docs/store-format.md, section 4.3).
const (
	snapshotName  = "index"
	snapshotDraft = "index.new"
	snapshotMagic = "IGIDX\x00\x00\x01"

	snapshotHeaderLen  = 8 + 64 + 4 + 8
	snapshotSegmentLen = 4 + 8 + 8
	snapshotEntryLen   = 8 + 8 + 4
	snapshotSumLen     = 4

	// snapshotAfter is how many bytes are appended between two snapshots, so
	// that a start after a crash reads no more than about that: a guess.
	snapshotAfter = 1 << 30
)

// errNoSnapshot reports a file that is no snapshot of ours.
var errNoSnapshot = errors.New("disk: the index is damaged")

// A coverage says that all records of a segment before end are in a snapshot,
// or were forgotten before it was taken.
type coverage struct {
	number     uint32
	generation generation
	end        int64
}

// An entry is one of the index.
type entry struct {
	tag   uint64
	at    location
	state uint32
}

func appendSnapshotHeader(b []byte, k tagKey, covers []coverage, entries int) []byte {
	b = append(b, snapshotMagic...)
	for _, x := range k {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(covers)))
	b = binary.LittleEndian.AppendUint64(b, uint64(entries))
	for _, c := range covers {
		b = binary.LittleEndian.AppendUint32(b, c.number)
		b = binary.LittleEndian.AppendUint64(b, uint64(c.generation))
		b = binary.LittleEndian.AppendUint64(b, uint64(c.end))
	}
	return b
}

func appendEntry(b []byte, e entry) []byte {
	b = binary.LittleEndian.AppendUint64(b, e.tag)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.at))
	return binary.LittleEndian.AppendUint32(b, e.state)
}

// readSnapshot decodes a snapshot of size bytes, and calls found with each
// entry. The sum that ends it is known last, so what was found counts only if
// there is no error.
func readSnapshot(from io.Reader, size int64, found func(entry)) (k tagKey, covers []coverage, err error) {
	sum := crc32.New(castagnoli)
	r := bufio.NewReaderSize(from, 1<<16)
	var b [snapshotHeaderLen]byte
	read := func(n int) []byte {
		if err == nil {
			if _, e := io.ReadFull(r, b[:n]); e != nil {
				err = errNoSnapshot
				clear(b[:n])
			}
		}
		sum.Write(b[:n])
		return b[:n]
	}
	head := read(snapshotHeaderLen)
	if err != nil || string(head[:8]) != snapshotMagic {
		return k, nil, errNoSnapshot
	}
	for i := range k {
		k[i] = binary.LittleEndian.Uint64(head[8+8*i:])
	}
	segments, entries := int64(binary.LittleEndian.Uint32(head[72:])), binary.LittleEndian.Uint64(head[76:])
	left := size - snapshotHeaderLen - snapshotSumLen - segments*snapshotSegmentLen
	if left < 0 || uint64(left)/snapshotEntryLen != entries || left%snapshotEntryLen != 0 {
		return k, nil, errNoSnapshot
	}
	for range segments {
		s := read(snapshotSegmentLen)
		covers = append(covers, coverage{
			binary.LittleEndian.Uint32(s), generation(binary.LittleEndian.Uint64(s[4:])), int64(binary.LittleEndian.Uint64(s[12:])),
		})
	}
	for range entries {
		e := read(snapshotEntryLen)
		if err != nil {
			break
		}
		found(entry{binary.LittleEndian.Uint64(e), location(binary.LittleEndian.Uint64(e[8:])), binary.LittleEndian.Uint32(e[16:])})
	}
	want := sum.Sum32()
	if got := read(snapshotSumLen); err != nil || binary.LittleEndian.Uint32(got) != want {
		return k, nil, errNoSnapshot
	}
	return k, covers, nil
}

// saveSnapshot writes the index to the disk. It says nothing of records that
// are not durable yet.
func (d *Disk) saveSnapshot() error {
	d.snapshotting.Lock()
	defer d.snapshotting.Unlock()
	// The lock of the index is held for the copy only; the writing takes longer.
	d.mu.RLock()
	unsaved := d.unsaved.Load()
	durable := make(map[uint32]int64, len(d.segments))
	covers := make([]coverage, 0, len(d.segments))
	for n, g := range d.segments {
		durable[n], _ = g.durable()
		covers = append(covers, coverage{n, g.generation, durable[n]})
	}
	entries := make([]entry, 0, d.index.count)
	d.index.each(func(tag uint64, at location, state uint32) {
		if at.offset() < durable[at.segment()] {
			entries = append(entries, entry{tag, at, stateOf(0, usedOf(state))})
		}
	})
	d.mu.RUnlock()

	err := d.cfg.files.Remove(snapshotDraft)
	if err != nil {
		return err
	}
	f, err := d.cfg.files.Create(snapshotDraft)
	if err != nil {
		return err
	}
	err = writeSnapshot(f, d.hash, covers, entries)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = d.cfg.files.Rename(snapshotDraft, snapshotName)
	}
	if err == nil {
		err = d.cfg.files.Sync()
	}
	if err != nil {
		d.cfg.files.Remove(snapshotDraft)
		return err
	}
	d.unsaved.Add(-unsaved)
	return nil
}

func writeSnapshot(to io.WriterAt, k tagKey, covers []coverage, entries []entry) error {
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(io.NewOffsetWriter(to, 0), sum), 1<<16)
	w.Write(appendSnapshotHeader(nil, k, covers, len(entries)))
	var b [snapshotEntryLen]byte
	for _, e := range entries {
		w.Write(appendEntry(b[:0], e))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return w.Flush()
}

// keepSnapshots saves the index when much has been appended.
func (d *Disk) keepSnapshots(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.saveNow:
			if d.unsaved.Load() < snapshotAfter {
				continue
			}
			if err := d.saveSnapshot(); err != nil {
				d.cfg.Logger.Warn("the index of the store is not saved", "err", err)
			}
		}
	}
}
