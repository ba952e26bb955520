package overlay

import (
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
)

// maxListPart is how much of a revocation list one message carries, in bytes.
const maxListPart = 3072

// A listFetch is the revocation list that a peer is giving us, part by part.
type listFetch struct {
	mu       sync.Mutex // guards what follows
	sequence uint64     // zero: none is under way
	data     []byte
	asked    time.Time // when the last part was asked for
}

// fetchAgain is how long a part may take before the list is asked for anew.
const fetchAgain = 5 * time.Second

// offered handles the peer's word that it has list number sequence.
func (a *association) offered(now time.Time, m listAt) {
	known, _ := a.node.grid.listed()
	if m.sequence < known {
		a.send(listAt{known})
		return
	}
	if m.sequence == known || !a.node.grid.member() {
		return
	}
	f := &a.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sequence >= m.sequence && now.Sub(f.asked) < fetchAgain {
		return
	}
	f.sequence, f.data, f.asked = m.sequence, nil, now
	a.send(listGet{m.sequence, 0})
}

// give answers with a part of our list, if it is the one that is asked for.
func (a *association) give(m listGet) {
	sequence, list := a.node.grid.listed()
	if sequence != m.sequence || int64(m.offset) >= int64(len(list)) {
		return
	}
	part := list[m.offset:]
	a.send(listPart{sequence, uint32(len(list)), m.offset, part[:min(len(part), maxListPart)]})
}

// given takes the next part. The whole is verified before it counts.
func (a *association) given(now time.Time, m listPart) {
	f := &a.fetch
	f.mu.Lock()
	if m.sequence != f.sequence || int(m.offset) != len(f.data) || m.total > membership.MaxRevocations ||
		len(m.data) == 0 || len(f.data)+len(m.data) > int(m.total) {
		f.mu.Unlock()
		return
	}
	f.data = append(f.data, m.data...)
	f.asked = now
	if len(f.data) < int(m.total) {
		a.send(listGet{m.sequence, uint32(len(f.data))})
		f.mu.Unlock()
		return
	}
	whole := f.data
	f.sequence, f.data = 0, nil
	f.mu.Unlock()
	if _, err := a.node.adoptRevocations(now, whole); err != nil {
		a.node.counters.listsRefused.Add(1)
		a.log.Warn("a revocation list that does not hold", "err", err)
	}
}
