package ri2n

// A datagramFrame carries one unreliable datagram (RFC 9221).
type datagramFrame struct {
	data []byte

	// toEnd leaves the length out: the data end with the packet.
	toEnd bool
}

// datagramHeaderLen returns the length of a DATAGRAM frame without its data.
func datagramHeaderLen(dataLen int, toEnd bool) int {
	if toEnd {
		return 1
	}
	return 1 + varintLen(uint64(dataLen))
}

func appendDatagramFrame(b []byte, f datagramFrame) []byte {
	if f.toEnd {
		return append(append(b, frameDatagram), f.data...)
	}
	b = append(b, frameDatagramLen)
	b = appendVarint(b, uint64(len(f.data)))
	return append(b, f.data...)
}

// parseDatagramFrame decodes what follows the type typ, frameDatagram or
// frameDatagramLen. The data alias b.
func parseDatagramFrame(b []byte, typ uint64) (f datagramFrame, rest []byte, err error) {
	if typ == frameDatagram {
		return datagramFrame{data: b, toEnd: true}, b[len(b):], nil
	}
	f.data, rest, err = parseBytes(b)
	return f, rest, err
}

// A datagramNumberedFrame carries one unreliable datagram that may arrive on
// several paths: copies have the number of the first.
type datagramNumberedFrame struct {
	number uint64
	data   []byte
}

// maxDatagramNumberedHeader is the longest header of a DATAGRAM_NUMBERED frame
// that we write: a number of up to 8 bytes and a length of up to 4.
const maxDatagramNumberedHeader = 1 + 8 + 4

// datagramNumberedLen returns the length of the whole frame.
func datagramNumberedLen(f datagramNumberedFrame) int {
	return 1 + varintLen(f.number) + varintLen(uint64(len(f.data))) + len(f.data)
}

func appendDatagramNumberedFrame(b []byte, f datagramNumberedFrame) []byte {
	b = append(b, frameDatagramNumbered)
	b = appendVarint(b, f.number)
	b = appendVarint(b, uint64(len(f.data)))
	return append(b, f.data...)
}

// parseDatagramNumberedFrame decodes what follows the type. The data alias b.
func parseDatagramNumberedFrame(b []byte) (f datagramNumberedFrame, rest []byte, err error) {
	if f.number, b, err = parseVarint(b); err != nil {
		return f, nil, err
	}
	f.data, rest, err = parseBytes(b)
	return f, rest, err
}
