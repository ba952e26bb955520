package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Manifests (docs/store-format.md, section 3).
const (
	manifestVersion = 1
	rootHeaderLen   = 1 + 1 + 8
	entryLen        = chunk.Size + 32 + 8

	// fanout is how many entries a node or root has at most: 72 KiB.
	fanout = 1024
	// maxDepth bounds the tree: fanout^4 leaves are more than anybody has.
	maxDepth = 4
	// maxInline is how many bytes of content a root holds at most.
	maxInline = maxCut - rootHeaderLen - saltLen
)

var errManifest = errors.New("its manifest is malformed")

// A ref leads to a leaf or node and opens it.
type ref struct {
	id   chunk.ID
	key  [32]byte
	size int64 // bytes of content in it, or under it
}

// A root is the beginning of an object.
type root struct {
	size   int64
	depth  uint8  // of the tree: 1: the refs lead to leaves; 0: the content is inline
	inline []byte // if depth is 0
	refs   []ref
}

func appendRefs(b []byte, refs []ref) []byte {
	for _, r := range refs {
		b = append(b, r.id[:]...)
		b = append(b, r.key[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(r.size))
	}
	return b
}

// parseRefs decodes refs that fill b, at the given depth.
func parseRefs(b []byte, depth uint8) (refs []ref, size int64, err error) {
	n := len(b) / entryLen
	if n == 0 || n > fanout || len(b)%entryLen != 0 {
		return nil, 0, errManifest
	}
	refs = make([]ref, n)
	for i := range refs {
		e := b[i*entryLen:]
		refs[i] = ref{id: chunk.ID(e), key: [32]byte(e[chunk.Size:]), size: int64(binary.BigEndian.Uint64(e[chunk.Size+32:]))}
		if refs[i].size <= 0 || depth == 1 && refs[i].size > maxCut || refs[i].size > maxObject {
			return nil, 0, errManifest
		}
		size += refs[i].size
		if size > maxObject {
			return nil, 0, errManifest
		}
	}
	return refs, size, nil
}

// maxObject is what a tree of maxDepth holds at most, in bytes.
const maxObject = 1 << 60

func appendRoot(b []byte, r root) []byte {
	b = append(b, manifestVersion, r.depth)
	b = binary.BigEndian.AppendUint64(b, uint64(r.size))
	if r.depth == 0 {
		return append(b, r.inline...)
	}
	return appendRefs(b, r.refs)
}

// parseRoot decodes a root. Inline content aliases b.
func parseRoot(b []byte) (r root, err error) {
	if len(b) < rootHeaderLen {
		return root{}, errManifest
	}
	if b[0] != manifestVersion {
		return root{}, fmt.Errorf("its manifest has version %d, and this program knows %d", b[0], manifestVersion)
	}
	r.depth = b[1]
	r.size = int64(binary.BigEndian.Uint64(b[2:]))
	rest := b[rootHeaderLen:]
	if r.depth == 0 {
		if r.size != int64(len(rest)) || len(rest) > maxInline {
			return root{}, errManifest
		}
		r.inline = rest
		return r, nil
	}
	if r.depth > maxDepth {
		return root{}, errManifest
	}
	var size int64
	if r.refs, size, err = parseRefs(rest, r.depth); err != nil || size != r.size {
		return root{}, errManifest
	}
	return r, nil
}

// appendNode encodes a node whose refs lead to leaves (depth 1) or to nodes of
// the depth below.
func appendNode(b []byte, depth uint8, refs []ref) []byte {
	return appendRefs(append(b, depth), refs)
}

// parseNode decodes a node of the given depth and size.
func parseNode(b []byte, depth uint8, size int64) ([]ref, error) {
	if len(b) == 0 || b[0] != depth {
		return nil, errManifest
	}
	refs, sum, err := parseRefs(b[1:], depth)
	if err != nil || sum != size {
		return nil, errManifest
	}
	return refs, nil
}

// A planter grows the tree of an object from its leaves.
type planter struct {
	levels [][]ref // levels[0] are leaves
	size   int64
	// keep seals and keeps a node.
	keep func(depth uint8, refs []ref) (ref, error)
}

// add appends a leaf.
func (p *planter) add(leaf ref) error {
	p.size += leaf.size
	return p.push(0, leaf)
}

func (p *planter) push(level int, r ref) error {
	if level == len(p.levels) {
		p.levels = append(p.levels, make([]ref, 0, fanout))
	}
	if len(p.levels[level]) == fanout { // a full level goes up when more comes
		if err := p.lift(level); err != nil {
			return err
		}
	}
	p.levels[level] = append(p.levels[level], r)
	return nil
}

// lift makes a node of a level's refs.
func (p *planter) lift(level int) error {
	if level+1 >= maxDepth {
		return errors.New("store: the object is too large")
	}
	node, err := p.keep(uint8(level+1), p.levels[level])
	if err != nil {
		return err
	}
	p.levels[level] = p.levels[level][:0]
	return p.push(level+1, node)
}

// root returns the root of what was added.
func (p *planter) root() (root, error) {
	for level := 0; level+1 < len(p.levels); level++ {
		if err := p.lift(level); err != nil {
			return root{}, err
		}
	}
	top := len(p.levels) - 1
	return root{size: p.size, depth: uint8(top + 1), refs: p.levels[top]}, nil
}
