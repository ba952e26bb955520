package disk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Config configures a Disk. Dir is needed; the rest may be zero.
type Config struct {
	// Dir holds the segments and the index, 0700 with files 0600. It is made if
	// it does not exist.
	Dir string

	// Quota bounds the segments, in bytes; the index comes on top, 20 bytes a
	// chunk. Zero means 10 GiB. Less than 16 MiB is taken as that.
	Quota int64

	// SegmentSize is how long a segment grows, in bytes. Zero means 1/32 of the
	// quota, and at least 4 and at most 256 MiB.
	SegmentSize int64

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger

	files files            // nil: those in Dir
	now   func() time.Time // nil: time.Now
}

const (
	defaultQuota = 10 << 30
	minQuota     = 16 << 20
	minSegment   = 4 << 20 // so that each holds several chunks
)

func (c *Config) fill() {
	if c.Quota == 0 {
		c.Quota = defaultQuota
	}
	c.Quota = max(c.Quota, minQuota)
	if c.SegmentSize == 0 {
		c.SegmentSize = c.Quota / 32
	}
	c.SegmentSize = min(max(c.SegmentSize, minSegment), maxSegmentSize, c.Quota/4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.files == nil {
		c.files = directory(c.Dir)
	}
	if c.now == nil {
		c.now = time.Now
	}
}

// A Disk keeps chunks in a directory. It implements [chunk.Stager] and
// [chunk.Pinner].
type Disk struct {
	cfg  Config
	hash tagKey
	room sync.Mutex // held by whoever makes room

	appending sync.Mutex // held to append a record; taken before mu
	active    *segment   // takes the next record; nil: one is made
	scratch   []byte

	mu       sync.RWMutex // guards what follows
	index    table
	segments map[uint32]*segment
	physical int64 // bytes of all segments
	closed   bool

	snapshotting sync.Mutex // held while a snapshot is written
	unsaved      atomic.Int64
	stop         context.CancelFunc
	done         sync.WaitGroup
	saveNow      chan struct{}
	flushNow     chan struct{}

	counters counters
}

type counters struct {
	puts, duplicates, gets, misses, damaged, evicted, moved, full, syncFailures atomic.Uint64
}

// A Status says how a Disk is doing. Sizes are in bytes.
type Status struct {
	Chunks   int   `json:"chunks"`
	Live     int64 `json:"live_bytes"` // of records that are held
	Disk     int64 `json:"disk_bytes"` // of segments
	Quota    int64 `json:"quota_bytes"`
	Segments int   `json:"segments"`
	Index    int64 `json:"index_bytes"` // in memory

	Puts         uint64 `json:"puts"`
	Duplicates   uint64 `json:"duplicates"` // puts of what was held
	Gets         uint64 `json:"gets"`
	Misses       uint64 `json:"misses"`
	Damaged      uint64 `json:"damaged"` // chunks that were found so and forgotten
	Evicted      uint64 `json:"evicted"` // chunks
	Moved        uint64 `json:"moved"`   // chunks, by compaction
	Full         uint64 `json:"full"`    // puts that failed for lack of room
	SyncFailures uint64 `json:"sync_failures"`
}

var (
	_ chunk.Stager = (*Disk)(nil)
	_ chunk.Pinner = (*Disk)(nil)
)

// Open opens the directory, and recovers what a crash has left in it.
func Open(cfg Config) (*Disk, error) {
	cfg.fill()
	if _, ok := cfg.files.(directory); ok {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
	}
	d := &Disk{cfg: cfg, segments: make(map[uint32]*segment), saveNow: make(chan struct{}, 1), flushNow: make(chan struct{}, 1)}
	if err := d.recover(); err != nil {
		for _, s := range d.segments {
			s.file.Close()
		}
		return nil, fmt.Errorf("disk: open %s: %w", cfg.Dir, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.done.Go(func() { d.keepSnapshots(ctx) })
	d.done.Go(func() { d.flush(ctx) })
	return d, nil
}

// Close writes the index and closes the files. It may be called twice.
func (d *Disk) Close() error {
	d.stop()
	d.done.Wait()
	err := d.Sync()
	d.room.Lock()
	defer d.room.Unlock()
	d.appending.Lock()
	defer d.appending.Unlock()
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	if e := d.saveSnapshot(); err == nil {
		err = e
	}
	for _, s := range d.segments {
		if e := s.close(); err == nil {
			err = e
		}
	}
	return err
}

// Status returns what is held now.
func (d *Disk) Status() Status {
	d.mu.RLock()
	s := Status{
		Chunks: d.index.count, Disk: d.physical, Quota: d.cfg.Quota, Segments: len(d.segments), Index: d.index.bytes(),
	}
	for _, g := range d.segments {
		s.Live += g.live
	}
	d.mu.RUnlock()
	c := &d.counters
	s.Puts, s.Duplicates, s.Gets, s.Misses = c.puts.Load(), c.duplicates.Load(), c.gets.Load(), c.misses.Load()
	s.Damaged, s.Evicted, s.Moved, s.Full = c.damaged.Load(), c.evicted.Load(), c.moved.Load(), c.full.Load()
	s.SyncFailures = c.syncFailures.Load()
	return s
}

// A tagKey hashes IDs to the tags of the table: multiply-shift hashing with
// 128-bit multipliers, of which any two IDs have one tag with a probability of
// 2^-64 (Dietzfelbinger, 1996).
type tagKey [8]uint64

func newTagKey() (k tagKey) {
	var b [64]byte
	rand.Read(b[:])
	for i := range k {
		k[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return k
}

func (k *tagKey) tag(id chunk.ID) uint64 {
	var hi, lo uint64
	for i := range 4 {
		x := binary.LittleEndian.Uint64(id[8*i:])
		h, l := bits.Mul64(k[2*i], x)
		h += k[2*i+1] * x
		var carry uint64
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return hi
}

func (d *Disk) clock() useTime { return useTimeOf(d.cfg.now()) }

func always(location) bool { return true }

// Has implements [chunk.Holdings].
func (d *Disk) Has(id chunk.ID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, _, ok := d.index.find(d.hash.tag(id), always)
	return ok
}

// Length returns how many bytes the chunk has, or zero if it is not held.
func (d *Disk) Length(id chunk.ID) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s, i, ok := d.index.find(d.hash.tag(id), always)
	if !ok {
		return 0
	}
	return s.at[i].length()
}

// Get implements [chunk.Holdings]. It returns a [DamagedError] the first time
// that it finds a chunk damaged.
func (d *Disk) Get(id chunk.ID, buf []byte) ([]byte, error) {
	d.counters.gets.Add(1)
	tag, now := d.hash.tag(id), d.clock()
	var damage error
	// A tag leads to several places once in 2^64; then each is tried.
	for skip := 0; ; skip++ {
		g, l, err := d.hold(tag, skip, now)
		if err != nil {
			return nil, err
		}
		if g == nil {
			d.counters.misses.Add(1)
			if damage != nil {
				return nil, damage
			}
			return nil, chunk.ErrNotHeld
		}
		b, err := g.read(id, l, buf)
		g.use.RUnlock()
		if err == nil {
			return b, nil
		}
		if _, ok := err.(*DamagedError); !ok {
			return nil, fmt.Errorf("disk: read chunk %s: %w", id, err)
		}
		if damage == nil && d.forgetDamaged(id, tag, l) {
			d.counters.damaged.Add(1)
			d.cfg.Logger.Warn("a chunk in the store is damaged, and forgotten", "chunk", id, "err", err)
			damage = err
			skip--
		}
	}
}

// hold returns where the tag leads, after skip others, with the segment held
// for reading; or no segment.
func (d *Disk) hold(tag uint64, skip int, now useTime) (*segment, location, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, 0, ErrClosed
	}
	s, i, ok := d.index.find(tag, func(location) bool { skip--; return skip < 0 })
	if !ok {
		return nil, 0, nil
	}
	l := s.at[i]
	s.touch(i, now)
	g := d.segments[l.segment()]
	g.use.RLock()
	return g, l, nil
}

// forgetDamaged removes the entry of a chunk that was read at l, unless it has
// moved, or the record there is a sound one of another chunk.
func (d *Disk) forgetDamaged(id chunk.ID, tag uint64, l location) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, i, ok := d.index.find(tag, func(at location) bool { return at == l })
	if !ok {
		return false
	}
	if r, err := d.segments[l.segment()].identify(l); err == nil && r.id != id && d.hash.tag(r.id) == tag {
		return false
	}
	d.drop(s, i)
	return true
}

// drop removes an entry. The lock is held.
func (d *Disk) drop(s *shard, i int) {
	l := s.at[i]
	d.segments[l.segment()].live -= recordSize(l.length())
	d.index.remove(s, i)
}

// Put implements [chunk.Holdings]. It returns a [FullError] for lack of room.
func (d *Disk) Put(id chunk.ID, sealed []byte) error {
	if err := chunk.Verify(id, sealed); err != nil {
		return err
	}
	_, at, err := d.put(id, sealed)
	if err != nil {
		return err
	}
	return d.settle(at)
}

// Stage implements [chunk.Stager].
func (d *Disk) Stage(id chunk.ID, sealed []byte) error {
	if err := chunk.Verify(id, sealed); err != nil {
		return err
	}
	_, _, err := d.put(id, sealed)
	return err
}

// StageVerified is Stage for a caller who has verified the chunk.
func (d *Disk) StageVerified(id chunk.ID, sealed []byte) error {
	_, _, err := d.put(id, sealed)
	return err
}

// Add stages a chunk that the caller has made, and reports whether it is new.
func (d *Disk) Add(sealed []byte) (id chunk.ID, fresh bool, err error) {
	if len(sealed) == 0 || len(sealed) > chunk.MaxSize {
		return id, false, fmt.Errorf("%w: %d bytes", chunk.ErrTooLarge, len(sealed))
	}
	id = chunk.Sum(sealed)
	fresh, _, err = d.put(id, sealed)
	return id, fresh, err
}

// An ending is the end of a record in a segment.
type ending struct {
	segment *segment
	offset  int64
}

// settle returns once the record at at survives a crash.
func (d *Disk) settle(at ending) error {
	if err := at.segment.sync(at.offset); err != nil {
		return d.syncFailed(at.segment, err)
	}
	return nil
}

// put keeps a chunk whose ID is right, and returns where.
func (d *Disk) put(id chunk.ID, sealed []byte) (fresh bool, at ending, err error) {
	d.counters.puts.Add(1)
	tag := d.hash.tag(id)
	if at, ok := d.findHeld(id, tag); ok {
		d.counters.duplicates.Add(1)
		return false, at, nil
	}
	size := recordSize(len(sealed))
	for try := 0; ; try++ {
		at, full, err := d.append(id, tag, sealed, d.cfg.Quota-d.cfg.SegmentSize)
		if err == nil && !full {
			return true, at, nil
		}
		if err == nil && try < 3 && d.makeRoom(size) {
			continue
		}
		return false, ending{}, d.failure(size, err)
	}
}

// failure explains why size bytes were not written.
func (d *Disk) failure(size int64, err error) error {
	switch {
	case err == nil:
		d.counters.full.Add(1)
		return &FullError{Dir: d.cfg.Dir, Need: size, Quota: d.cfg.Quota}
	case isFull(err):
		d.counters.full.Add(1)
		return &FullError{Dir: d.cfg.Dir, Need: size, Err: err}
	case err == ErrClosed:
		return err
	}
	return fmt.Errorf("disk: write: %w", err)
}

// findHeld returns where the chunk is held, if it is, and notes that it is
// wanted.
func (d *Disk) findHeld(id chunk.ID, tag uint64) (at ending, ok bool) {
	now := d.clock()
	for skip := 0; ; skip++ {
		g, l, err := d.hold(tag, skip, now)
		if err != nil || g == nil {
			return ending{}, false
		}
		r, err := g.identify(l)
		g.use.RUnlock()
		if err == nil && r.id == id {
			return ending{g, l.offset() + recordSize(l.length())}, true
		}
	}
}

// append writes a record into the active segment and its entry into the index.
// It reports full instead where the segments would have more than limit bytes.
func (d *Disk) append(id chunk.ID, tag uint64, sealed []byte, limit int64) (at ending, full bool, err error) {
	d.appending.Lock()
	defer d.appending.Unlock()
	if at, ok := d.findHeld(id, tag); ok { // somebody else has put it meanwhile
		return at, false, nil
	}
	size := recordSize(len(sealed))
	g, full, err := d.roomFor(size, limit)
	if err != nil || full {
		return ending{}, full, err
	}
	if d.scratch == nil {
		d.scratch = make([]byte, 0, recordSize(chunk.MaxSize))
	}
	now := d.clock()
	offset, err := g.append(id, sealed, now, d.scratch)
	if err != nil {
		return ending{}, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at = ending{g, offset + size}
	d.physical += size
	d.index.insert(tag, locate(g.number, offset, len(sealed)), now)
	g.live += size
	if d.unsaved.Add(size) >= snapshotAfter {
		poke(d.saveNow)
	}
	if synced, _ := g.durable(); at.offset-synced >= flushAfter {
		poke(d.flushNow)
	}
	return at, false, nil
}

// flushAfter is how many bytes are staged before the disk is told to write them,
// so that it works while more are made: a guess.
const flushAfter = 16 << 20

// poke tells the goroutine that reads c, unless it has been told.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// flush writes what was staged. Its failures are those of whoever calls Sync,
// who finds that chunks are lost.
func (d *Disk) flush(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.flushNow:
			_ = d.Sync() // which counts and logs
		}
	}
}

// roomFor returns a segment that takes size more bytes. The appending lock is
// held.
func (d *Disk) roomFor(size, limit int64) (g *segment, full bool, err error) {
	d.mu.RLock()
	closed, physical := d.closed, d.physical
	d.mu.RUnlock()
	if closed {
		return nil, false, ErrClosed
	}
	if g := d.active; g != nil {
		if _, failed := g.durable(); failed == nil && g.end.Load()+size <= d.cfg.SegmentSize {
			return g, physical+size > limit, nil
		}
	}
	if physical+size+segmentHeaderLen > limit {
		return nil, true, nil
	}
	number, err := d.freeNumber()
	if err != nil {
		return nil, false, err
	}
	if g, err = createSegment(d.cfg.files, number, newGeneration()); err != nil {
		return nil, false, err
	}
	d.mu.Lock()
	d.segments[number] = g
	d.physical += segmentHeaderLen
	d.mu.Unlock()
	d.active = g // the one before is synced by whoever waits for what is in it
	return g, false, nil
}

func newGeneration() generation {
	var b [8]byte
	rand.Read(b[:])
	return generation(binary.LittleEndian.Uint64(b[:]))
}

// freeNumber returns a number that no segment has.
func (d *Disk) freeNumber() (uint32, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for n := range uint32(maxSegments) {
		if d.segments[n] == nil {
			return n, nil
		}
	}
	return 0, fs.ErrExist
}

// Sync implements [chunk.Stager].
func (d *Disk) Sync() error {
	d.mu.RLock()
	list := make([]*segment, 0, len(d.segments))
	for _, g := range d.segments {
		list = append(list, g)
	}
	d.mu.RUnlock()
	for _, g := range list {
		g.use.RLock()
		d.mu.RLock()
		there := d.segments[g.number] == g && !d.closed
		d.mu.RUnlock()
		var err error
		if there {
			err = g.sync(g.end.Load())
		}
		g.use.RUnlock()
		if err != nil {
			return d.syncFailed(g, err)
		}
	}
	return nil
}

// syncFailed forgets what an fsync has not made durable: it can neither be
// acknowledged, nor will a second fsync tell the truth about it.
func (d *Disk) syncFailed(g *segment, err error) error {
	d.appending.Lock()
	d.discardUnsynced(g)
	if d.active == g {
		d.active = nil
	}
	d.appending.Unlock()
	return d.failure(0, err)
}

// discardUnsynced removes the entries of g that are not durable. The appending
// lock is held.
func (d *Disk) discardUnsynced(g *segment) {
	synced, failed := g.durable()
	if failed == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.segments[g.number] != g || g.end.Load() == synced {
		return
	}
	d.counters.syncFailures.Add(1)
	d.cfg.Logger.Error("the disk failed to keep chunks of the store", "segment", segmentName(g.number), "err", failed)
	d.index.sweep(func(at location, _ uint32) bool {
		if at.segment() != g.number || at.offset() < synced {
			return false
		}
		g.live -= recordSize(at.length())
		return true
	})
	d.physical -= g.end.Load() - synced
	g.end.Store(synced)
	_ = g.file.Truncate(synced) // what stays is found to be unknown at the next start, or sound
}

// Pin implements [chunk.Pinner].
func (d *Disk) Pin(id chunk.ID) bool { return d.pin(id, 1) }

// Unpin implements [chunk.Pinner].
func (d *Disk) Unpin(id chunk.ID) { d.pin(id, -1) }

func (d *Disk) pin(id chunk.ID, n int) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s, i, ok := d.index.find(d.hash.tag(id), always)
	if ok {
		s.pin(i, n)
	}
	return ok
}

// Delete forgets chunks, pinned ones too. Room comes back with compaction.
func (d *Disk) Delete(ids ...chunk.ID) {
	d.mu.Lock()
	for _, id := range ids {
		for {
			s, i, ok := d.index.find(d.hash.tag(id), always)
			if !ok {
				break
			}
			d.drop(s, i)
		}
	}
	d.unsaved.Add(snapshotAfter) // so that they stay forgotten
	d.mu.Unlock()
	poke(d.saveNow)
}

// Losses counts the failures of fsync, each of which may have lost what was
// staged, by anybody. Who stages much reads it before, and if it has changed
// after Sync, looks what is still there.
func (d *Disk) Losses() uint64 { return d.counters.syncFailures.Load() }
