package ri2n

import "sync/atomic"

// A bufferBudget is what the flow control windows of an endpoint's sessions may
// grow by together, in bytes. A session's window bounds what all its streams
// may make us buffer, so those of streams are not counted.
type bufferBudget struct {
	limit int64
	used  atomic.Int64
	held  *atomic.Uint64 // windows that did not grow for want of it
}

// take reserves n bytes, or counts that there were not so many left.
func (b *bufferBudget) take(n uint64) bool {
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		b.held.Add(1)
		return false
	}
	return true
}

func (b *bufferBudget) give(n uint64) { b.used.Add(-int64(n)) }
