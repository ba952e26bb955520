package ri2n

import "time"

// maxAckRanges bounds the ranges of one PATH_ACK.
const maxAckRanges = 32

// ackDelayUnit is the unit of the delay on the wire: microseconds >> 3.
const ackDelayUnit = 8 * time.Microsecond

// An ackRange is a run of packet numbers, both ends included.
type ackRange struct{ smallest, largest packetNumber }

// An ackFrame acknowledges packets of one path; it may travel on any
// (docs/wire-format.md, section 4.2).
type ackFrame struct {
	path  pathID
	delay time.Duration // since the first range's largest arrived; 8 us steps
	// ranges has 1 to maxAckRanges entries, descending, with at least one
	// number missing between two. The first holds the largest number.
	ranges []ackRange

	hasECN         bool
	ect0, ect1, ce uint64 // packets of the path received with each mark
}

// appendAckFrame appends f. It panics when the ranges break the rules of
// ackFrame.
func appendAckFrame(b []byte, f ackFrame) []byte {
	if len(f.ranges) == 0 || len(f.ranges) > maxAckRanges {
		panic("ri2n: PATH_ACK has 1 to maxAckRanges ranges")
	}
	if f.hasECN {
		b = append(b, framePathAckECN)
	} else {
		b = append(b, framePathAck)
	}
	first := f.ranges[0]
	b = appendVarint(b, uint64(f.path))
	b = appendVarint(b, uint64(first.largest))
	b = appendDuration(b, f.delay, ackDelayUnit)
	b = appendVarint(b, uint64(len(f.ranges)))
	b = appendVarint(b, uint64(first.largest-first.smallest))
	previous := first.smallest
	for _, r := range f.ranges[1:] {
		// A range out of order wraps around to a number that is no varint.
		b = appendVarint(b, uint64(previous-r.largest-2))
		b = appendVarint(b, uint64(r.largest-r.smallest))
		previous = r.smallest
	}
	if f.hasECN {
		b = appendVarint(b, f.ect0)
		b = appendVarint(b, f.ect1)
		b = appendVarint(b, f.ce)
	}
	return b
}

// parseAckFrame decodes what follows the type typ, framePathAck or
// framePathAckECN. The ranges are stored in scratch, whatever it holds;
// with room for maxAckRanges there nothing is allocated.
func parseAckFrame(b []byte, typ uint64, scratch []ackRange) (f ackFrame, rest []byte, err error) {
	if f.path, b, err = parsePathID(b); err != nil {
		return ackFrame{}, nil, err
	}
	largest, b, err := parseVarint(b)
	if err != nil {
		return ackFrame{}, nil, err
	}
	if f.delay, b, err = parseDuration(b, ackDelayUnit); err != nil {
		return ackFrame{}, nil, err
	}
	count, b, err := parseVarint(b)
	if err != nil {
		return ackFrame{}, nil, err
	}
	if count == 0 || count > maxAckRanges {
		return ackFrame{}, nil, errMalformed
	}
	f.ranges = scratch[:0]
	for i := range count {
		var gap, length uint64
		if i > 0 {
			if gap, b, err = parseVarint(b); err != nil {
				return ackFrame{}, nil, err
			}
			if gap+2 > largest {
				return ackFrame{}, nil, errMalformed
			}
			largest -= gap + 2
		}
		if length, b, err = parseVarint(b); err != nil {
			return ackFrame{}, nil, err
		}
		if length > largest {
			return ackFrame{}, nil, errMalformed
		}
		f.ranges = append(f.ranges, ackRange{packetNumber(largest - length), packetNumber(largest)})
		largest -= length
	}
	if f.hasECN = typ == framePathAckECN; f.hasECN {
		if b, err = parseVarints(b, &f.ect0, &f.ect1, &f.ce); err != nil {
			return ackFrame{}, nil, err
		}
	}
	return f, b, nil
}
