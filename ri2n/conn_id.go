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
//
// It holds the key alone. The key schedule has 30 times its size and is wanted
// a few times in the life of a session: see open.
type cidDeriver struct{ key [16]byte }

func newCIDDeriver(key [16]byte) cidDeriver { return cidDeriver{key} }

// cid returns the connection ID of the seq-th use of path.
func (d cidDeriver) cid(path pathID, seq uint32) connID {
	return d.open().cid(path, seq)
}

// open returns the key schedule, for who needs several connection IDs.
func (d cidDeriver) open() cidSchedule {
	block, err := aes.NewCipher(d.key[:])
	if err != nil {
		panic("ri2n: 16 bytes are an AES-128 key: " + err.Error())
	}
	return cidSchedule{block}
}

// A cidSchedule is a cidDeriver in use.
type cidSchedule struct{ block cipher.Block }

// cid returns the connection ID of the seq-th use of path.
func (s cidSchedule) cid(path pathID, seq uint32) connID {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint32(b[:], uint32(path))
	binary.BigEndian.PutUint32(b[4:], seq)
	s.block.Encrypt(b[:], b[:])
	return connID(binary.BigEndian.Uint64(b[:]))
}
