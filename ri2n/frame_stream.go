package ri2n

// A streamFrame carries bytes of a stream (docs/wire-format.md, section 4.3).
type streamFrame struct {
	id     uint64
	offset uint64 // of the first byte of data; offset+len(data) is at most maxVarint
	data   []byte
	fin    bool // the stream ends after data
}

// streamHeaderLen returns the length of what appendStreamHeader appends.
func streamHeaderLen(id, offset uint64, dataLen int, hasLen bool) int {
	n := 1 + varintLen(id)
	if offset > 0 {
		n += varintLen(offset)
	}
	if hasLen {
		n += varintLen(uint64(dataLen))
	}
	return n
}

// appendStreamHeader appends a STREAM frame up to its data; the caller copies
// dataLen bytes behind it. Without hasLen the frame ends with the packet.
func appendStreamHeader(b []byte, id, offset uint64, dataLen int, hasLen, fin bool) []byte {
	typ := byte(frameStream)
	if offset > 0 {
		typ |= streamBitOFF
	}
	if hasLen {
		typ |= streamBitLEN
	}
	if fin {
		typ |= streamBitFIN
	}
	b = append(b, typ)
	b = appendVarint(b, id)
	if offset > 0 {
		b = appendVarint(b, offset)
	}
	if hasLen {
		b = appendVarint(b, uint64(dataLen))
	}
	return b
}

// parseStreamFrame decodes what follows the type typ, for which isStreamFrame
// holds. The data alias b.
func parseStreamFrame(b []byte, typ uint64) (f streamFrame, rest []byte, err error) {
	if f.id, b, err = parseVarint(b); err != nil {
		return streamFrame{}, nil, err
	}
	if typ&streamBitOFF != 0 {
		if f.offset, b, err = parseVarint(b); err != nil {
			return streamFrame{}, nil, err
		}
		if f.offset == 0 {
			return streamFrame{}, nil, errMalformed
		}
	}
	if typ&streamBitLEN != 0 {
		if f.data, rest, err = parseBytes(b); err != nil {
			return streamFrame{}, nil, err
		}
	} else {
		f.data, rest = b, b[len(b):]
	}
	if f.offset+uint64(len(f.data)) > maxVarint {
		return streamFrame{}, nil, errMalformed
	}
	f.fin = typ&streamBitFIN != 0
	return f, rest, nil
}

// A resetStreamFrame ends a stream early; the sender sends no more of it.
type resetStreamFrame struct {
	id        uint64
	code      uint64
	finalSize uint64 // bytes that count against flow control
}

func appendResetStreamFrame(b []byte, f resetStreamFrame) []byte {
	b = append(b, frameResetStream)
	b = appendVarint(b, f.id)
	b = appendVarint(b, f.code)
	return appendVarint(b, f.finalSize)
}

func parseResetStreamFrame(b []byte) (f resetStreamFrame, rest []byte, err error) {
	if rest, err = parseVarints(b, &f.id, &f.code, &f.finalSize); err != nil {
		return resetStreamFrame{}, nil, err
	}
	return f, rest, nil
}

// A stopSendingFrame asks the peer to reset its side of a stream.
type stopSendingFrame struct {
	id   uint64
	code uint64
}

func appendStopSendingFrame(b []byte, f stopSendingFrame) []byte {
	b = append(b, frameStopSending)
	b = appendVarint(b, f.id)
	return appendVarint(b, f.code)
}

func parseStopSendingFrame(b []byte) (f stopSendingFrame, rest []byte, err error) {
	if rest, err = parseVarints(b, &f.id, &f.code); err != nil {
		return stopSendingFrame{}, nil, err
	}
	return f, rest, nil
}
