package ri2n

// A cryptoFrame carries bytes of the TLS handshake of its packet's level.
type cryptoFrame struct {
	offset uint64
	data   []byte
}

// cryptoHeaderLen returns the length of a CRYPTO frame without its data.
func cryptoHeaderLen(offset uint64, dataLen int) int {
	return 1 + varintLen(offset) + varintLen(uint64(dataLen))
}

func appendCryptoFrame(b []byte, f cryptoFrame) []byte {
	b = append(b, frameCrypto)
	b = appendVarint(b, f.offset)
	b = appendVarint(b, uint64(len(f.data)))
	return append(b, f.data...)
}

// parseCryptoFrame decodes what follows the type. The data alias b.
func parseCryptoFrame(b []byte) (f cryptoFrame, rest []byte, err error) {
	if f.offset, b, err = parseVarint(b); err != nil {
		return cryptoFrame{}, nil, err
	}
	if f.data, rest, err = parseBytes(b); err != nil {
		return cryptoFrame{}, nil, err
	}
	if f.offset+uint64(len(f.data)) > maxVarint {
		return cryptoFrame{}, nil, errMalformed
	}
	return f, rest, nil
}
