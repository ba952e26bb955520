package kernel

import "time"

// held is a packet that waits for its time.
type held struct {
	due    time.Time
	seq    uint64 // order among equals
	packet *packet
}

func (h held) before(o held) bool {
	if h.due.Equal(o.due) {
		return h.seq < o.seq
	}
	return h.due.Before(o.due)
}

// A schedule is a binary heap of packets, the earliest first. It is written
// out since container/heap would allocate for each packet.
type schedule []held

func (s *schedule) push(h held) {
	q := append(*s, h)
	i := len(q) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !h.before(q[up]) {
			break
		}
		q[i] = q[up]
		i = up
	}
	q[i] = h
	*s = q
}

func (s *schedule) pop() held {
	q := *s
	first := q[0]
	n := len(q) - 1
	h := q[n]
	q[n] = held{}
	q = q[:n]
	if n > 0 {
		i := 0
		for {
			down := 2*i + 1
			if down >= n {
				break
			}
			if down+1 < n && q[down+1].before(q[down]) {
				down++
			}
			if !q[down].before(h) {
				break
			}
			q[i] = q[down]
			i = down
		}
		q[i] = h
	}
	*s = q
	return first
}
