package ri2n

import "unicode/utf8"

// maxCloseReason bounds the reason of a CLOSE in bytes.
const maxCloseReason = 256

// A closeFrame ends the session.
type closeFrame struct {
	code   uint64 // an errorCode
	reason string // for people; the peer's may hold any bytes
}

// appendCloseFrame appends f, with the reason cut to maxCloseReason bytes
// between two characters.
func appendCloseFrame(b []byte, f closeFrame) []byte {
	reason := f.reason
	if len(reason) > maxCloseReason {
		n := maxCloseReason
		for n > maxCloseReason-utf8.UTFMax && !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	b = append(b, frameClose)
	b = appendVarint(b, f.code)
	b = appendVarint(b, uint64(len(reason)))
	return append(b, reason...)
}

func parseCloseFrame(b []byte) (f closeFrame, rest []byte, err error) {
	if f.code, b, err = parseVarint(b); err != nil {
		return closeFrame{}, nil, err
	}
	reason, rest, err := parseBytes(b)
	if err != nil {
		return closeFrame{}, nil, err
	}
	if len(reason) > maxCloseReason {
		return closeFrame{}, nil, errMalformed
	}
	f.reason = string(reason)
	return f, rest, nil
}
