package ri2n

import "iter"

// A streamSet holds streams by their number. Most sessions have one, or none
// for most of the time; the map of those that have more would cost each a
// fifth of a kilobyte. The zero value is empty.
type streamSet struct {
	one  *Stream
	more map[uint64]*Stream
}

func (t *streamSet) get(id uint64) *Stream {
	if t.one != nil && t.one.id == id {
		return t.one
	}
	return t.more[id]
}

// add adds st, whose number nobody has.
func (t *streamSet) add(st *Stream) {
	if t.one == nil {
		t.one = st
		return
	}
	if t.more == nil {
		t.more = make(map[uint64]*Stream)
	}
	t.more[st.id] = st
}

func (t *streamSet) remove(st *Stream) {
	if t.one == st {
		t.one = nil
		return
	}
	if delete(t.more, st.id); len(t.more) == 0 {
		t.more = nil
	}
}

func (t *streamSet) len() int {
	if t.one == nil {
		return len(t.more)
	}
	return 1 + len(t.more)
}

// all yields the streams in no order. Streams may be removed meanwhile.
func (t *streamSet) all() iter.Seq[*Stream] {
	return func(yield func(*Stream) bool) {
		if t.one != nil && !yield(t.one) {
			return
		}
		for _, st := range t.more {
			if !yield(st) {
				return
			}
		}
	}
}
