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
