package ri2n

import (
	"errors"
	"time"
)

// stream returns the stream that a frame names, opening it and those below it
// if the peer may. It returns nil for one that is over.
func (s *Session) stream(id uint64) (*Stream, *violation) {
	if st := s.streams.get(id); st != nil {
		return st, nil
	}
	ours := id%2 == 0 == s.client
	if id%4 >= 2 {
		return nil, &violation{codeStreamLimit, "unidirectional streams are not taken"}
	}
	number := id / 4
	if ours {
		if number >= s.opened {
			return nil, &violation{codeStreamState, "frame for a stream that was never opened"}
		}
		return nil, nil
	}
	if number >= s.peerLimit {
		return nil, &violation{codeStreamLimit, "too many streams"}
	}
	if number < s.peerOpened {
		return nil, nil
	}
	var st *Stream
	for ; s.peerOpened <= number; s.peerOpened++ {
		st = s.newStream(s.peerOpened*4 + id%2)
		s.acceptQueue = append(s.acceptQueue, st)
	}
	s.incoming.signal()
	return st, nil
}

// onStream handles STREAM.
func (s *Session) onStream(now time.Time, f streamFrame) *violation {
	st, v := s.stream(f.id)
	if st == nil || v != nil {
		return v
	}
	if st.peerReset {
		return nil
	}
	end := f.offset + uint64(len(f.data))
	if end > st.recvLimit {
		return &violation{codeFlowControl, "stream data beyond MAX_STREAM_DATA"}
	}
	before := st.recv.highest()
	if end > before && s.recvHighest+end-before > s.recvCredit {
		return &violation{codeFlowControl, "stream data beyond MAX_DATA"}
	}
	wasReadable := st.recv.readable() > 0
	if err := st.recv.insert(f.offset, f.data, f.fin); err != nil {
		switch {
		case errors.Is(err, errFinalSize):
			return &violation{codeFinalSize, "STREAM"}
		case errors.Is(err, errTooManyGaps):
			s.unstored = true // as if the packet had been lost
			return nil
		}
		return &violation{codeProtocolViolation, "stream data contradict themselves"}
	}
	s.recvHighest += st.recv.highest() - before
	if st.readErr != nil {
		st.discard()
		s.retire(st)
		return nil
	}
	if !wasReadable && (st.recv.readable() > 0 || st.recv.eof()) || st.recv.eof() {
		s.wakeLater(st.readable.c)
	}
	return nil
}

// onResetStream handles RESET_STREAM.
func (s *Session) onResetStream(now time.Time, f resetStreamFrame) *violation {
	st, v := s.stream(f.id)
	if st == nil || v != nil || st.peerReset {
		return v
	}
	if f.finalSize > st.recvLimit || f.finalSize < st.recv.highest() {
		return &violation{codeFinalSize, "RESET_STREAM"}
	}
	if size, known := st.recv.finalSize(); known && size != f.finalSize {
		return &violation{codeFinalSize, "RESET_STREAM"}
	}
	if extra := f.finalSize - st.recv.highest(); s.recvHighest+extra > s.recvCredit {
		return &violation{codeFlowControl, "RESET_STREAM beyond MAX_DATA"}
	}
	if st.recvDone() {
		return nil
	}
	// What will never be read is credit again.
	s.recvHighest += f.finalSize - st.recv.highest()
	unread := f.finalSize - st.recv.consumed()
	st.recv.reset()
	st.peerReset = true
	s.recvConsumed += unread
	if limit, grow := s.recvWindow.extend(now, s.creditRTT(), s.recvConsumed, s.recvCredit); grow {
		s.recvCredit = limit
		s.maxDataDue = true
	}
	if st.readErr == nil {
		st.readErr = &StreamError{Code: f.code}
	}
	st.readable.signal()
	s.retire(st)
	return nil
}

// onStopSending handles STOP_SENDING: the peer reads no more.
func (s *Session) onStopSending(f stopSendingFrame) *violation {
	st, v := s.stream(f.id)
	if st == nil || v != nil {
		return v
	}
	st.resetWrite(f.code, &StreamError{Code: f.code})
	s.queueControl(st)
	return nil
}

// onMaxStreamData handles MAX_STREAM_DATA.
func (s *Session) onMaxStreamData(f maxStreamDataFrame) *violation {
	st, v := s.stream(f.id)
	if st == nil || v != nil {
		return v
	}
	if f.limit > st.sendLimit {
		st.sendLimit = f.limit
		s.queueStream(st)
	}
	return nil
}

// A creditWindow decides when a receiver gives more credit, and how much. It
// doubles when data is consumed faster than a whole window in creditTrips,
// so that credit never limits a fast path for long. A reader that was held up
// and catches up is not faster: the rate is taken over a round trip and over
// creditPeriod at least.
type creditWindow struct {
	size, cap uint64
	startedAt time.Time
	startedBy uint64        // consumed when the measurement began
	budget    *bufferBudget // of a session's window; nil: growth is free
}

// extend returns the new limit if it is time to tell one.
func (w *creditWindow) extend(now time.Time, rtt time.Duration, consumed, limit uint64) (uint64, bool) {
	if limit-consumed > w.size-w.size/4 {
		return limit, false
	}
	rtt = max(rtt, creditSlack)
	if w.startedAt.IsZero() {
		w.startedAt, w.startedBy = now, consumed
	} else if used, took := consumed-w.startedBy, now.Sub(w.startedAt); used >= w.size/2 && took >= max(rtt, creditPeriod) {
		if took < creditTrips*rtt*time.Duration(used)/time.Duration(w.size) {
			bigger := min(2*w.size, w.cap)
			if bigger == w.size || w.budget == nil || w.budget.take(bigger-w.size) {
				w.size = bigger
			}
		}
		w.startedAt, w.startedBy = now, consumed
	}
	return consumed + w.size, true
}
