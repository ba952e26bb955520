package ri2n

// maxStreamCount is the largest stream limit: more streams of a kind would
// have IDs above maxVarint (RFC 9000, section 4.6).
const maxStreamCount = 1 << 60

// A maxDataFrame allows limit bytes on all streams together, counted from the
// start of the session.
type maxDataFrame struct{ limit uint64 }

func appendMaxDataFrame(b []byte, f maxDataFrame) []byte {
	return appendVarint(append(b, frameMaxData), f.limit)
}

func parseMaxDataFrame(b []byte) (f maxDataFrame, rest []byte, err error) {
	f.limit, rest, err = parseVarint(b)
	return f, rest, err
}

// A maxStreamDataFrame allows limit bytes on one stream, counted from its
// start.
type maxStreamDataFrame struct{ id, limit uint64 }

func appendMaxStreamDataFrame(b []byte, f maxStreamDataFrame) []byte {
	b = append(b, frameMaxStreamData)
	b = appendVarint(b, f.id)
	return appendVarint(b, f.limit)
}

func parseMaxStreamDataFrame(b []byte) (f maxStreamDataFrame, rest []byte, err error) {
	if rest, err = parseVarints(b, &f.id, &f.limit); err != nil {
		return maxStreamDataFrame{}, nil, err
	}
	return f, rest, nil
}

// A maxStreamsFrame allows the peer to open limit streams of a kind, counted
// from the start of the session.
type maxStreamsFrame struct {
	limit uint64 // at most maxStreamCount
	uni   bool
}

func appendMaxStreamsFrame(b []byte, f maxStreamsFrame) []byte {
	return appendVarint(append(b, byKind(f.uni, frameMaxStreamsBidi, frameMaxStreamsUni)), f.limit)
}

// parseMaxStreamsFrame decodes what follows the type typ, frameMaxStreamsBidi
// or frameMaxStreamsUni.
func parseMaxStreamsFrame(b []byte, typ uint64) (f maxStreamsFrame, rest []byte, err error) {
	f.uni = typ == frameMaxStreamsUni
	if f.limit, rest, err = parseStreamCount(b); err != nil {
		return maxStreamsFrame{}, nil, err
	}
	return f, rest, nil
}

// A dataBlockedFrame says that the session's limit holds data back.
type dataBlockedFrame struct{ limit uint64 }

func appendDataBlockedFrame(b []byte, f dataBlockedFrame) []byte {
	return appendVarint(append(b, frameDataBlocked), f.limit)
}

func parseDataBlockedFrame(b []byte) (f dataBlockedFrame, rest []byte, err error) {
	f.limit, rest, err = parseVarint(b)
	return f, rest, err
}

// A streamDataBlockedFrame says that a stream's limit holds data back.
type streamDataBlockedFrame struct{ id, limit uint64 }

func appendStreamDataBlockedFrame(b []byte, f streamDataBlockedFrame) []byte {
	b = append(b, frameStreamDataBlocked)
	b = appendVarint(b, f.id)
	return appendVarint(b, f.limit)
}

func parseStreamDataBlockedFrame(b []byte) (f streamDataBlockedFrame, rest []byte, err error) {
	if rest, err = parseVarints(b, &f.id, &f.limit); err != nil {
		return streamDataBlockedFrame{}, nil, err
	}
	return f, rest, nil
}

// A streamsBlockedFrame says that the limit on streams holds one back.
type streamsBlockedFrame struct {
	limit uint64 // at most maxStreamCount
	uni   bool
}

func appendStreamsBlockedFrame(b []byte, f streamsBlockedFrame) []byte {
	return appendVarint(append(b, byKind(f.uni, frameStreamsBlockedBidi, frameStreamsBlockedUni)), f.limit)
}

// parseStreamsBlockedFrame decodes what follows the type typ,
// frameStreamsBlockedBidi or frameStreamsBlockedUni.
func parseStreamsBlockedFrame(b []byte, typ uint64) (f streamsBlockedFrame, rest []byte, err error) {
	f.uni = typ == frameStreamsBlockedUni
	if f.limit, rest, err = parseStreamCount(b); err != nil {
		return streamsBlockedFrame{}, nil, err
	}
	return f, rest, nil
}

func byKind(uni bool, bidiType, uniType byte) byte {
	if uni {
		return uniType
	}
	return bidiType
}

func parseStreamCount(b []byte) (count uint64, rest []byte, err error) {
	if count, rest, err = parseVarint(b); err != nil {
		return 0, nil, err
	}
	if count > maxStreamCount {
		return 0, nil, errMalformed
	}
	return count, rest, nil
}
