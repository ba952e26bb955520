package ri2n

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// Labels under which the TLS exporter gives the keys of connection IDs
// (docs/wire-format.md, section 5.4).
const (
	cidLabelClient = "EXPORTER-ri2n client cid"
	cidLabelServer = "EXPORTER-ri2n server cid"
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

// exportCIDDerivers returns the derivers of the connection IDs under which the
// client and the server receive. The exporter is that of the session's TLS
// (tls.ConnectionState.ExportKeyingMaterial); both ends get the same two.
func exportCIDDerivers(exporter func(label string, context []byte, length int) ([]byte, error)) (client, server *cidDeriver, err error) {
	export := func(label string) *cidDeriver {
		var key []byte
		if err == nil {
			key, err = exporter(label, nil, 16)
		}
		if err != nil {
			return nil
		}
		return newCIDDeriver([16]byte(key))
	}
	client, server = export(cidLabelClient), export(cidLabelServer)
	if err != nil {
		return nil, nil, fmt.Errorf("ri2n: export keys of connection IDs: %w", err)
	}
	return client, server, nil
}

// cid returns the connection ID of the seq-th use of path.
func (d *cidDeriver) cid(path pathID, seq uint32) connID {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint32(b[:], uint32(path))
	binary.BigEndian.PutUint32(b[4:], seq)
	d.block.Encrypt(b[:], b[:])
	return connID(binary.BigEndian.Uint64(b[:]))
}
