package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
)

// syncBytes is how much may be written between two entries in the journal. A
// killed program loses nothing of it, since the system still holds what was
// written; a power cut loses what came after the last entry.
const syncBytes = 8 << 20

// partData is the file that grows: *os.File, or what a test puts in its place.
type partData interface {
	io.ReaderAt
	WriteAt(b []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// A partFile is a file that is arriving: NAME.part, with what is known of it in
// NAME.part.journal, until finish renames it. One goroutine owns it; the
// journal has a goroutine of its own, since syncing a disk takes long.
type partFile struct {
	root *os.Root
	dir  string
	name string // base name of the complete file
	from string
	opt  ReceiveOptions

	size    int64
	modTime time.Time
	data    partData
	have    have        // beginnings that are there
	states  []hash.Hash // at the end of each of them
	offset  int64       // bytes written from the start
	state   hash.Hash   // of these bytes

	noted   int64 // offset that the journal's goroutine was last given
	entries chan journalEntry
	keeper  sync.WaitGroup
	closed  bool
}

// path returns where the complete file will be.
func (p *partFile) path() string { return filepath.Join(p.dir, p.name) }

// partPath returns where the file is now.
func (p *partFile) partPath() string { return p.path() + partSuffix }

// openPart prepares for an offered file, and finds what is there of it.
func openPart(ctx context.Context, offer Offer, opt ReceiveOptions) (_ *partFile, err error) {
	dir := opt.Dir
	if dir == "" {
		dir = "."
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, &fileError{true, err}
	}
	p := &partFile{
		root: root, dir: dir, name: offer.Name, from: opt.From, opt: opt,
		size: offer.Size, modTime: offer.ModTime, state: sha256.New(),
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if !opt.Overwrite {
		if err := p.checkFree(); err != nil {
			return nil, err
		}
	}
	j, journalErr := readJournal(root, p.name)
	size, statErr := p.partSize()
	ours := journalErr == nil && j.From == p.from
	if statErr == nil && size > 0 && !ours && !opt.Overwrite {
		who := "another program"
		if journalErr == nil {
			who = "another sender"
		}
		return nil, &ObstacleError{Path: p.partPath(), Problem: "it holds an unfinished transfer from " + who}
	}
	if opt.open != nil {
		p.data, err = opt.open(p, offer)
	} else {
		p.data, err = p.openData(offer.Mode)
	}
	if err != nil {
		return nil, err
	}
	if statErr == nil && ours {
		if err := p.findBeginnings(ctx, j.Offset, size); err != nil {
			return nil, err
		}
	}
	return p, p.checkSpace()
}

// checkFree returns an ObstacleError if the name is taken.
func (p *partFile) checkFree() error {
	_, err := p.root.Lstat(p.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fileError{true, err}
	}
	return &ObstacleError{Path: p.path(), Problem: "there is a file of that name already", Other: otherName(p.dir, p.name, func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	})}
}

// partSize returns the size of the part file, which must be a regular one.
func (p *partFile) partSize() (int64, error) {
	info, err := p.root.Lstat(p.name + partSuffix)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 1, nil // something: not ours
	}
	return info.Size(), nil
}

func (p *partFile) openData(mode fs.FileMode) (partData, error) {
	f, err := p.root.OpenFile(p.name+partSuffix, os.O_RDWR|os.O_CREATE, mode&modeMask|0o600)
	if err != nil {
		if isFull(err) {
			return nil, p.spaceError(err)
		}
		return nil, &fileError{true, err}
	}
	if !filelock.Take(f) {
		f.Close()
		return nil, &ObstacleError{Path: p.partPath(), Problem: "another program is receiving it right now"}
	}
	return f, nil
}

// findBeginnings hashes the part file: as far as the journal vouches for it,
// and as far as it reaches.
func (p *partFile) findBeginnings(ctx context.Context, journalled, size int64) error {
	h := sha256.New()
	var at int64
	for _, length := range []int64{journalled, size} {
		if length <= at || length > size || length > p.size {
			continue
		}
		if err := hashRange(ctx, h, io.NewSectionReader(p.data, at, length-at)); err != nil {
			return err
		}
		at = length
		state, err := cloneHash(h)
		if err != nil {
			return err
		}
		p.have = append(p.have, beginning{length, Sum(h.Sum(nil))})
		p.states = append(p.states, state)
	}
	return nil
}

// checkSpace fails early where the disk surely has no room for the rest.
func (p *partFile) checkSpace() error {
	var there int64
	if n := len(p.have); n > 0 {
		there = p.have[n-1].length
	}
	if free := freeSpace(p.dir); free >= 0 && free < p.size-there {
		p.offset = there
		return p.spaceError(nil)
	}
	return nil
}

func (p *partFile) spaceError(err error) error {
	return &SpaceError{Path: p.partPath(), Need: p.size - p.offset, Free: freeSpace(p.dir), Err: err}
}

// begin cuts the file to the length that both sides agree on, and starts the
// journal.
func (p *partFile) begin(start int64) error {
	p.offset = start
	for i, b := range p.have {
		if b.length == start {
			p.state = p.states[i]
		}
	}
	if err := p.data.Truncate(start); err != nil {
		return p.writeError(err)
	}
	p.noted = start
	// This entry promises nothing about the disk: it says whose the file is,
	// should we be killed. The data need not wait until it would survive a
	// power cut; that is the first thing that the journal's goroutine does.
	if err := writeJournal(p.root, p.name, p.entry(0), true); err != nil {
		return p.writeError(err)
	}
	p.entries = make(chan journalEntry, 1)
	p.entries <- p.entry(0)
	p.keeper.Go(func() {
		for e := range p.entries {
			// A journal that is behind costs a power cut's survivor some
			// bytes, and nothing else.
			if p.sync() == nil {
				_ = p.note(e)
			}
		}
	})
	return nil
}

// note replaces the entry in the journal.
func (p *partFile) note(e journalEntry) error {
	return writeJournal(p.root, p.name, e, p.opt.volatile)
}

// sync returns when the data is on the disk.
func (p *partFile) sync() error {
	if p.opt.volatile {
		return nil
	}
	return p.data.Sync()
}

func (p *partFile) entry(offset int64) journalEntry {
	return journalEntry{From: p.from, Size: p.size, Offset: offset}
}

// write appends b.
func (p *partFile) write(b []byte) error {
	n, err := p.data.WriteAt(b, p.offset)
	p.state.Write(b[:n])
	p.offset += int64(n)
	if err != nil {
		return p.writeError(err)
	}
	if p.offset-p.noted >= syncBytes {
		select {
		case p.entries <- p.entry(p.offset):
			p.noted = p.offset
		default: // the disk is busy; the next one will do
		}
	}
	return nil
}

func (p *partFile) writeError(err error) error {
	if isFull(err) {
		return p.spaceError(err)
	}
	return &fileError{true, err}
}

// sum returns the hash of what was written.
func (p *partFile) sum() Sum { return Sum(p.state.Sum(nil)) }

// finish makes the file durable and gives it its name.
func (p *partFile) finish() error {
	p.stopKeeper()
	if err := p.sync(); err != nil {
		return p.writeError(err)
	}
	if now := time.Now(); p.modTime.Before(now.Add(24 * time.Hour)) {
		// The time is a courtesy; some file systems cannot keep it.
		_ = p.root.Chtimes(p.name+partSuffix, now, p.modTime)
	}
	if err := p.rename(); err != nil {
		return err
	}
	err := p.root.Remove(p.name + journalSuffix)
	if !p.opt.volatile {
		syncDir(p.root)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fileError{true, err}
	}
	return nil
}

// rename moves the part file to its name, and over nothing unless asked to.
func (p *partFile) rename() error {
	from := p.name + partSuffix
	if !p.opt.Overwrite {
		// A link fails where something is; a rename would replace it.
		err := p.root.Link(from, p.name)
		if err == nil {
			err = p.root.Remove(from)
			if err != nil {
				return &fileError{true, err}
			}
			return nil
		}
		// File systems without links are left to a look before.
		if err := p.checkFree(); err != nil {
			return err
		}
	}
	if err := p.root.Rename(from, p.name); err != nil {
		return p.writeError(err)
	}
	return nil
}

// discard removes what must not be taken up again.
func (p *partFile) discard() {
	p.stopKeeper()
	// The hashes differ in any case; a leftover is found by its own hash.
	_ = p.root.Remove(p.name + journalSuffix)
	_ = p.root.Remove(p.name + partSuffix)
}

// stopKeeper waits for the journal's goroutine. It may be called twice.
func (p *partFile) stopKeeper() {
	if p.entries != nil {
		close(p.entries)
		p.keeper.Wait()
		p.entries = nil
	}
}

// close lets go of the files and leaves them where they are. It may be called
// twice.
func (p *partFile) close() {
	if p.closed {
		return
	}
	p.closed = true
	p.stopKeeper()
	if p.data != nil {
		p.data.Close()
	}
	p.root.Close()
}

// syncDir makes a change of names durable, where the system can.
func syncDir(root *os.Root) {
	if d, err := root.Open("."); err == nil {
		_ = d.Sync()
		d.Close()
	}
}

// String names the file and how far it is, for tests and logs.
func (p *partFile) String() string { return fmt.Sprintf("%s at %d", p.partPath(), p.offset) }
