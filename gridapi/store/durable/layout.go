package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/instantgrid/instantgrid/gridapi/internal/frame"
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
	f := frame.FieldsOf(b)
	var r Record
	f.Refuse(f.U8() != recordVersion)
	r.Object = [32]byte(f.Take(32))
	r.Version = f.U64()
	r.Scheme = Scheme{int(f.U8()), int(f.U8())}
	n := int(f.U8())
	f.Refuse(!r.Scheme.known() || n == 0 || n > maxLayoutChunks || r.Version == 0)
	for i := 0; i < n && !f.Bad(); i++ {
		r.Layout = append(r.Layout, chunk.ID(f.Take(chunk.Size)))
	}
	for i := 0; i < r.Scheme.Slots && !f.Bad(); i++ {
		k := int(f.U8())
		f.Refuse(k == 0 || k > maxHolders)
		var slot []string
		for j := 0; j < k && !f.Bad(); j++ {
			size := int(f.U8())
			f.Refuse(size == 0)
			slot = append(slot, string(f.Take(size)))
		}
		r.Holders = append(r.Holders, slot)
	}
	if f.Bad() || f.Left() > 0 {
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
	f := frame.FieldsOf(b)
	f.Refuse(f.U8() != layoutVersion)
	for f.Left() > 0 && !f.Bad() {
		var s stripe
		n := int(f.U16())
		f.Refuse(n == 0 || n > maxParts)
		total := 0
		for i := 0; i < n && !f.Bad(); i++ {
			p := part{chunk.ID(f.Take(chunk.Size)), f.U32()}
			f.Refuse(p.size == 0 || p.size > chunk.MaxSize)
			total += int(p.size)
			s.chunks = append(s.chunks, p)
		}
		f.Refuse(total > scheme.Need*chunk.MaxSize)
		for i := 0; i < scheme.Slots && !f.Bad(); i++ {
			s.shards = append(s.shards, chunk.ID(f.Take(chunk.Size)))
		}
		stripes = append(stripes, s)
	}
	if f.Bad() || len(stripes) == 0 {
		return nil, fmt.Errorf("%w: a layout of %d bytes", errMalformed, len(b))
	}
	return stripes, nil
}
