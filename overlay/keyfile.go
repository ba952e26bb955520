package overlay

import (
	"bytes"
	"encoding/base64"

	"github.com/instantgrid/instantgrid/ri2n"
)

// keyPrefix opens a key file: one line of prefix, the seed in base64, and the
// peer ID that it makes, with blanks between. Any 32 bytes are a seed: without the
// peer ID a damaged file would be somebody else's.
const keyPrefix = "instantgrid-key-2 "

// keyPrefixUnchecked opens a key file without the peer ID, as they were once.
const keyPrefixUnchecked = "instantgrid-key-1 "

func appendKeyFile(b []byte, id *ri2n.Identity) []byte {
	b = append(b, keyPrefix...)
	b = base64.StdEncoding.AppendEncode(b, id.Seed())
	b = append(b, ' ')
	b = append(b, id.PeerID().String()...)
	return append(b, '\n')
}

// parseKeyFile decodes a key file. Its error never shows the content.
func parseKeyFile(b []byte) (*ri2n.Identity, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	text, checked := bytes.CutPrefix(b, []byte(keyPrefix))
	var peer []byte
	if checked {
		text, peer, _ = bytes.Cut(text, []byte(" "))
	} else if text, checked = bytes.CutPrefix(b, []byte(keyPrefixUnchecked)); !checked {
		return nil, errNotKey
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return nil, errNotKey
	}
	id, err := ri2n.IdentityFromSeed(seed)
	if err != nil {
		return nil, errNotKey
	}
	if bytes.HasPrefix(b, []byte(keyPrefix)) && id.PeerID().String() != string(peer) {
		return nil, errOtherKey
	}
	return id, nil
}
