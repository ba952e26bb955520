package ri2n

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
)

// A cidDeriver gives the connection IDs that one side receives its packets
// under. Both sides compute them from a key out of the TLS exporter, so a path
// is opened without exchanging any (docs/wire-format.md, section 5.4). It may
// be used concurrently.
type cidDeriver struct{ block cipher.Block }

func newCIDDeriver(key [16]byte) *cidDeriver {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("ri2n: 16 bytes are an AES-128 key: " + err.Error())
	}
	return &cidDeriver{block}
}

// cid returns the connection ID of the seq-th use of path.
func (d *cidDeriver) cid(path pathID, seq uint32) connID {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint32(b[:], uint32(path))
	binary.BigEndian.PutUint32(b[4:], seq)
	d.block.Encrypt(b[:], b[:])
	return connID(binary.BigEndian.Uint64(b[:]))
}
