package ri2n

// A pathChallengeFrame asks for its data back on the path that it came by.
type pathChallengeFrame struct{ data [8]byte }

func appendPathChallengeFrame(b []byte, f pathChallengeFrame) []byte {
	return append(append(b, framePathChallenge), f.data[:]...)
}

func parsePathChallengeFrame(b []byte) (f pathChallengeFrame, rest []byte, err error) {
	if len(b) < len(f.data) {
		return pathChallengeFrame{}, nil, errTruncated
	}
	return pathChallengeFrame{[8]byte(b)}, b[len(f.data):], nil
}

// A pathResponseFrame returns the data of a challenge.
type pathResponseFrame struct{ data [8]byte }

func appendPathResponseFrame(b []byte, f pathResponseFrame) []byte {
	return append(append(b, framePathResponse), f.data[:]...)
}

func parsePathResponseFrame(b []byte) (f pathResponseFrame, rest []byte, err error) {
	if len(b) < len(f.data) {
		return pathResponseFrame{}, nil, errTruncated
	}
	return pathResponseFrame{[8]byte(b)}, b[len(f.data):], nil
}

// A pathStatus is what the sender of PATH_STATUS wants of a path.
type pathStatus uint8

const (
	pathStatusAvailable pathStatus = 0 // send data here
	pathStatusBackup    pathStatus = 1 // send data here when nothing else is available
	pathStatusSuspect   pathStatus = 2 // send nothing here that matters, acknowledgements included
)

// A pathStatusFrame tells the status of a path and the token that resets it.
type pathStatusFrame struct {
	path       pathID
	seq        uint64 // grows with each frame for the path; older ones are ignored
	status     pathStatus
	resetToken [resetTokenLen]byte // of the sender's connection ID for the path
}

func appendPathStatusFrame(b []byte, f pathStatusFrame) []byte {
	b = append(b, framePathStatus)
	b = appendVarint(b, uint64(f.path))
	b = appendVarint(b, f.seq)
	b = append(b, byte(f.status))
	return append(b, f.resetToken[:]...)
}

func parsePathStatusFrame(b []byte) (f pathStatusFrame, rest []byte, err error) {
	if f.path, b, err = parsePathID(b); err != nil {
		return pathStatusFrame{}, nil, err
	}
	if f.seq, b, err = parseVarint(b); err != nil {
		return pathStatusFrame{}, nil, err
	}
	if len(b) < 1+resetTokenLen {
		return pathStatusFrame{}, nil, errTruncated
	}
	if f.status = pathStatus(b[0]); f.status > pathStatusSuspect {
		return pathStatusFrame{}, nil, errMalformed
	}
	f.resetToken = [resetTokenLen]byte(b[1:])
	return f, b[1+resetTokenLen:], nil
}

// A pathAbandonFrame ends a path; its ID is not used again.
type pathAbandonFrame struct {
	path pathID
	code uint64
}

func appendPathAbandonFrame(b []byte, f pathAbandonFrame) []byte {
	b = append(b, framePathAbandon)
	b = appendVarint(b, uint64(f.path))
	return appendVarint(b, f.code)
}

func parsePathAbandonFrame(b []byte) (f pathAbandonFrame, rest []byte, err error) {
	if f.path, b, err = parsePathID(b); err != nil {
		return pathAbandonFrame{}, nil, err
	}
	if f.code, rest, err = parseVarint(b); err != nil {
		return pathAbandonFrame{}, nil, err
	}
	return f, rest, nil
}

// A maxPathsFrame names the highest path ID that the peer may open.
type maxPathsFrame struct{ limit pathID }

func appendMaxPathsFrame(b []byte, f maxPathsFrame) []byte {
	return appendVarint(append(b, frameMaxPaths), uint64(f.limit))
}

func parseMaxPathsFrame(b []byte) (f maxPathsFrame, rest []byte, err error) {
	f.limit, rest, err = parsePathID(b)
	return f, rest, err
}
