package durable

import (
	"fmt"

	"github.com/klauspost/reedsolomon"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// stripeSize is how many bytes are coded together at most: shards of 512 KiB
// are few, and small enough to be moved singly.
const stripeSize = 2 << 20

// A coder makes shards of stripes and stripes of shards.
type coder struct {
	scheme Scheme
	rs     reedsolomon.Encoder // nil for copies
}

func newCoder(s Scheme) (*coder, error) {
	c := &coder{scheme: s}
	if s.Need > 1 {
		rs, err := reedsolomon.New(s.Need, s.Slots-s.Need)
		if err != nil {
			return nil, err
		}
		c.rs = rs
	}
	return c, nil
}

// encode returns the shards of data, one for each slot. Its bytes are used.
func (c *coder) encode(data []byte) ([][]byte, error) {
	shards := make([][]byte, c.scheme.Slots)
	if c.rs == nil {
		for i := range shards {
			shards[i] = data
		}
		return shards, nil
	}
	size := (len(data) + c.scheme.Need - 1) / c.scheme.Need
	whole := make([]byte, size*c.scheme.Slots) // the last data shard ends in zeros
	copy(whole, data)
	for i := range shards {
		shards[i] = whole[i*size : (i+1)*size : (i+1)*size]
	}
	return shards, c.rs.Encode(shards)
}

// complete makes the shards that are nil of the others.
func (c *coder) complete(shards [][]byte) error {
	if c.rs != nil {
		return c.rs.Reconstruct(shards)
	}
	for _, s := range shards {
		if s != nil {
			for i := range shards {
				shards[i] = s
			}
			return nil
		}
	}
	return reedsolomon.ErrTooFewShards
}

// consistent reports whether parts at the same place of all shards belong
// together. Nil ones are not looked at; of too few it says true.
func (c *coder) consistent(parts [][]byte) bool {
	all := make([][]byte, len(parts))
	copy(all, parts)
	if c.rs == nil {
		first := ""
		for _, p := range parts {
			if p == nil {
				continue
			}
			if first == "" {
				first = string(p)
			}
			if string(p) != first {
				return false
			}
		}
		return true
	}
	if c.rs.Reconstruct(all) != nil {
		return true
	}
	ok, err := c.rs.Verify(all)
	return ok && err == nil
}

// split returns the chunks of a stripe whose data shards are complete, verified.
func (s stripe) split(shards [][]byte, need int) ([][]byte, error) {
	data := make([]byte, 0, s.size())
	for _, shard := range shards[:need] {
		data = append(data, shard...)
	}
	if len(data) < s.size() {
		return nil, fmt.Errorf("%w: shards shorter than the stripe", errMalformed)
	}
	var out [][]byte
	for _, p := range s.chunks {
		b := data[:p.size]
		data = data[p.size:]
		if err := chunk.Verify(p.id, b); err != nil {
			return nil, fmt.Errorf("durable: chunk %v of the shards: %w", p.id, err)
		}
		out = append(out, b)
	}
	return out, nil
}
