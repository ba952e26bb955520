package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

const segmentSuffix = ".seg"

func segmentName(number uint32) string { return fmt.Sprintf("%06d%s", number, segmentSuffix) }

func parseSegmentName(name string) (number uint32, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), ok && err == nil && n < maxSegments && segmentName(uint32(n)) == name
}

// A segment is a file of records. Records are appended by one goroutine at a
// time, which the Disk's appending lock sees to.
type segment struct {
	number     uint32
	generation generation
	file       file

	end  atomic.Int64 // where the next record goes: all before is written
	live int64        // bytes of records that the index knows; the Disk's lock guards it

	use sync.RWMutex // held for reading while the file is read

	syncing sync.Mutex // guards what follows
	idle    *sync.Cond // of syncing: busy has ended
	busy    bool       // an fsync goes on
	synced  int64      // bytes that survive a crash
	failed  error      // of an fsync: what was not durable then never is
}

func newSegment(number uint32, g generation, f file) *segment {
	s := &segment{number: number, generation: g, file: f, synced: segmentHeaderLen}
	s.idle = sync.NewCond(&s.syncing)
	s.end.Store(segmentHeaderLen)
	return s
}

// createSegment makes an empty segment.
func createSegment(fs files, number uint32, g generation) (*segment, error) {
	f, err := fs.Create(segmentName(number))
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(appendSegmentHeader(nil, g), 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fs.Sync()
	}
	if err != nil {
		f.Close()
		fs.Remove(segmentName(number))
		return nil, err
	}
	return newSegment(number, g, f), nil
}

// openSegment opens one that is there, and reads nothing of it but its header.
func openSegment(fs files, number uint32) (*segment, error) {
	f, err := fs.Open(segmentName(number))
	if err != nil {
		return nil, err
	}
	var b [segmentHeaderLen]byte
	if _, err = f.ReadAt(b[:], 0); err == io.EOF {
		err = errNoRecord
	}
	var g generation
	if err == nil {
		g, err = parseSegmentHeader(b[:])
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return newSegment(number, g, f), nil
}

// append writes a record at the end and returns where that is.
func (s *segment) append(id chunk.ID, payload []byte, u useTime, scratch []byte) (offset int64, err error) {
	offset = s.end.Load()
	r := record{id: id, length: len(payload), sum: crc32.Checksum(payload, castagnoli), used: u}
	b := appendRecordHeader(scratch[:0], place{s.generation, offset}, r)
	b = append(b, payload...)
	b = b[:r.size()] // whatever is in the last bytes
	if _, err := s.file.WriteAt(b, offset); err != nil {
		return 0, err
	}
	s.end.Store(offset + r.size())
	return offset, nil
}

// sync returns once all before end survives a crash. Calls that wait for one
// another share an fsync.
func (s *segment) sync(end int64) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	for s.synced < end {
		switch {
		case s.failed != nil:
			return s.failed
		case s.busy:
			s.idle.Wait()
		default:
			s.busy = true
			all := s.end.Load()
			s.syncing.Unlock()
			err := s.file.Sync()
			s.syncing.Lock()
			s.busy = false
			if err != nil {
				s.failed = err
			} else {
				s.synced = all
			}
			s.idle.Broadcast()
		}
	}
	return nil
}

// durable returns how much of it survives a crash, and whether that will never
// be more.
func (s *segment) durable() (int64, error) {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return s.synced, s.failed
}

// read appends the chunk at l to buf[:0].
func (s *segment) read(id chunk.ID, l location, buf []byte) ([]byte, error) {
	n := recordHeaderLen + l.length()
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := s.file.ReadAt(buf, l.offset()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if err != nil {
		return nil, s.damaged(id, l)
	}
	r, err := parseRecordHeader(buf, place{s.generation, l.offset()})
	if err != nil || r.id != id || !r.holds(buf[recordHeaderLen:]) {
		return nil, s.damaged(id, l)
	}
	return buf[:copy(buf, buf[recordHeaderLen:])], nil
}

func (s *segment) damaged(id chunk.ID, l location) error {
	return &DamagedError{ID: id, Segment: segmentName(s.number), Offset: l.offset()}
}

// identify reads the header of the record at l.
func (s *segment) identify(l location) (record, error) {
	var b [recordHeaderLen]byte
	if _, err := s.file.ReadAt(b[:], l.offset()); err != nil && err != io.EOF {
		return record{}, err
	}
	r, err := parseRecordHeader(b[:], place{s.generation, l.offset()})
	if err == nil && r.length != l.length() {
		err = errNoRecord
	}
	return r, err
}

// scan calls found with each whole record from offset on, steps over what is
// none, and returns the end of the last one.
func (s *segment) scan(offset int64, found func(offset int64, r record)) (end int64, err error) {
	size, err := s.file.Size()
	if err != nil {
		return 0, err
	}
	end = offset
	w := window{file: s.file, size: size}
	for offset+recordHeaderLen < size {
		b, err := w.at(offset, recordHeaderLen)
		if err != nil {
			return 0, err
		}
		r, err := parseRecordHeader(b, place{s.generation, offset})
		if err != nil || offset+recordHeaderLen+int64(r.length) > size {
			offset += recordAlign
			continue
		}
		if b, err = w.at(offset, recordHeaderLen+r.length); err != nil {
			return 0, err
		}
		if !r.holds(b[recordHeaderLen:]) {
			offset += recordAlign
			continue
		}
		found(offset, r)
		offset += r.size()
		end = offset
	}
	return end, nil
}

// A window reads a file from front to back, a large piece at a time.
type window struct {
	file  file
	size  int64
	b     []byte
	start int64
}

// at returns n bytes at offset, which the file has.
func (w *window) at(offset int64, n int) ([]byte, error) {
	if offset < w.start || offset+int64(n) > w.start+int64(len(w.b)) {
		if w.b == nil {
			w.b = make([]byte, 2*chunk.MaxSize)
		}
		w.b, w.start = w.b[:cap(w.b)], offset
		w.b = w.b[:min(int64(len(w.b)), w.size-offset)]
		if _, err := w.file.ReadAt(w.b, offset); err != nil {
			return nil, err
		}
	}
	i := offset - w.start
	return w.b[i : i+int64(n)], nil
}

// close closes the file once nobody reads it.
func (s *segment) close() error {
	s.use.Lock()
	defer s.use.Unlock()
	return s.file.Close()
}
