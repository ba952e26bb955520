package ri2n

import "time"

// An ackFreqFrame asks the peer how to acknowledge on the path of the frame.
type ackFreqFrame struct {
	threshold uint64        // ack-eliciting packets before an acknowledgement
	delay     time.Duration // the longest wait before one; whole microseconds
	reorder   uint64        // gap in packet numbers that is acknowledged at once; 0: none is
}

func appendAckFreqFrame(b []byte, f ackFreqFrame) []byte {
	b = append(b, frameAckFreq)
	b = appendVarint(b, f.threshold)
	b = appendDuration(b, f.delay, time.Microsecond)
	return appendVarint(b, f.reorder)
}

func parseAckFreqFrame(b []byte) (f ackFreqFrame, rest []byte, err error) {
	if f.threshold, b, err = parseVarint(b); err != nil {
		return ackFreqFrame{}, nil, err
	}
	if f.delay, b, err = parseDuration(b, time.Microsecond); err != nil {
		return ackFreqFrame{}, nil, err
	}
	if f.reorder, rest, err = parseVarint(b); err != nil {
		return ackFreqFrame{}, nil, err
	}
	return f, rest, nil
}
