package ri2n

import "time"

// The types of other parts, as agreed.

type packetNumber uint64

type pathID uint32

type ackRange struct{ smallest, largest packetNumber }

type ackFrame struct {
	path   pathID
	delay  time.Duration
	ranges []ackRange // descending, the first contains the largest
}

type sendStream struct{}
