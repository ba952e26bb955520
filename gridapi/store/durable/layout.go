package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Limits of what is read: a layout is cut into chunks, of which a record names
// up to maxLayoutChunks.
const (
	maxLayoutChunks = 64
	maxHolders      = 2 // of one slot
	maxSlots        = 16
	maxNameLen      = 255

	recordVersion = 1
	layoutVersion = 1
)

// errMalformed reports bytes that no append function of ours produces.
var errMalformed = errors.New("durable: malformed record or layout")

// A Scheme is how many shards a stripe has, and how many give it back.
type Scheme struct {
	Need, Slots int
}

var (
	// Coded is for objects of at least CodedFrom bytes.
	Coded = Scheme{Need: 4, Slots: 6}
	// Copies is for smaller ones.
	Copies = Scheme{Need: 1, Slots: 3}
)

// CodedFrom is the size of an object from which it is coded: below, six parts
// cost more than they save.
const CodedFrom = 1 << 20

func (s Scheme) known() bool { return s == Coded || s == Copies }

// A Record says where the parts of an object are.
type Record struct {
	Object  [32]byte
	Version uint64 // one more at each change
	Scheme  Scheme
	Layout  []chunk.ID // of the chunks of the layout, which every holder has
	// Holders are the members of each slot: who holds its shard of each
	// stripe. More than one where a member came back after it was replaced.
	Holders [][]string
}

// Append appends the record to b (docs/store-protocol.md, section 6).
func (r Record) Append(b []byte) []byte {
	b = append(b, recordVersion)
	b = append(b, r.Object[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = append(b, byte(r.Scheme.Need), byte(r.Scheme.Slots), byte(len(r.Layout)))
	for _, id := range r.Layout {
		b = append(b, id[:]...)
	}
	for _, slot := range r.Holders {
		b = append(b, byte(len(slot)))
		for _, name := range slot {
			b = append(b, byte(len(name)))
			b = append(b, name...)
		}
	}
	return b
}

// There returns how many slots have a holder that is here.
func (r Record) There(here func(member string) bool) (slots int) {
	for _, holders := range r.Holders {
		if slices.ContainsFunc(holders, here) {
			slots++
		}
	}
	return slots
}

// ParseRecord decodes what Append wrote.
func ParseRecord(b []byte) (Record, error) {
	f := fields{b: b}
	var r Record
	f.refuse(f.u8() != recordVersion)
	r.Object = [32]byte(f.take(32))
	r.Version = f.u64()
	r.Scheme = Scheme{int(f.u8()), int(f.u8())}
	n := int(f.u8())
	f.refuse(!r.Scheme.known() || n == 0 || n > maxLayoutChunks || r.Version == 0)
	for i := 0; i < n && !f.bad; i++ {
		r.Layout = append(r.Layout, chunk.ID(f.take(chunk.Size)))
	}
	for i := 0; i < r.Scheme.Slots && !f.bad; i++ {
		k := int(f.u8())
		f.refuse(k == 0 || k > maxHolders)
		var slot []string
		for j := 0; j < k && !f.bad; j++ {
			size := int(f.u8())
			f.refuse(size == 0)
			slot = append(slot, string(f.take(size)))
		}
		r.Holders = append(r.Holders, slot)
	}
	if f.bad || len(f.b) > 0 {
		return Record{}, fmt.Errorf("%w: a record of %d bytes", errMalformed, len(b))
	}
	return r, nil
}

// A stripe is what is coded together: some chunks, one behind the other.
type stripe struct {
	chunks []part
	shards []chunk.ID // one for each slot
}

// A part is a chunk in a stripe.
type part struct {
	id   chunk.ID
	size uint32
}

func (s stripe) size() (n int) {
	for _, p := range s.chunks {
		n += int(p.size)
	}
	return n
}

// maxParts is how many chunks a stripe has at most.
const maxParts = 1024

// appendLayout appends the stripes of an object.
func appendLayout(b []byte, scheme Scheme, stripes []stripe) []byte {
	b = append(b, layoutVersion)
	for _, s := range stripes {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s.chunks)))
		for _, p := range s.chunks {
			b = append(b, p.id[:]...)
			b = binary.BigEndian.AppendUint32(b, p.size)
		}
		for i := range scheme.Slots {
			b = append(b, s.shards[i][:]...)
		}
	}
	return b
}

func parseLayout(b []byte, scheme Scheme) (stripes []stripe, err error) {
	f := fields{b: b}
	f.refuse(f.u8() != layoutVersion)
	for len(f.b) > 0 && !f.bad {
		var s stripe
		n := int(f.u16())
		f.refuse(n == 0 || n > maxParts)
		total := 0
		for i := 0; i < n && !f.bad; i++ {
			p := part{chunk.ID(f.take(chunk.Size)), f.u32()}
			f.refuse(p.size == 0 || p.size > chunk.MaxSize)
			total += int(p.size)
			s.chunks = append(s.chunks, p)
		}
		f.refuse(total > scheme.Need*chunk.MaxSize)
		for i := 0; i < scheme.Slots && !f.bad; i++ {
			s.shards = append(s.shards, chunk.ID(f.take(chunk.Size)))
		}
		stripes = append(stripes, s)
	}
	if f.bad || len(stripes) == 0 {
		return nil, fmt.Errorf("%w: a layout of %d bytes", errMalformed, len(b))
	}
	return stripes, nil
}

// A fields reader takes bytes apart. Its first error stays.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if f.bad || len(f.b) < n {
		f.bad = true
		return make([]byte, n) // n is at most 255
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u8() uint8   { return f.take(1)[0] }
func (f *fields) u16() uint16 { return binary.BigEndian.Uint16(f.take(2)) }
func (f *fields) u32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) u64() uint64 { return binary.BigEndian.Uint64(f.take(8)) }
func (f *fields) refuse(is bool) {
	if is {
		f.bad = true
	}
}
