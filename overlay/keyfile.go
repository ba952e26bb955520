package overlay

import (
	"bytes"
	"encoding/base64"

	"github.com/instantgrid/instantgrid/ri2n"
)

// keyPrefix opens a key file: one line of prefix, a blank and the seed in
// base64.
const keyPrefix = "instantgrid-key-1 "

func appendKeyFile(b []byte, id *ri2n.Identity) []byte {
	b = append(b, keyPrefix...)
	b = base64.StdEncoding.AppendEncode(b, id.Seed())
	return append(b, '\n')
}

// parseKeyFile decodes a key file. Its error never shows the content.
func parseKeyFile(b []byte) (*ri2n.Identity, error) {
	text, found := bytes.CutPrefix(bytes.TrimSuffix(b, []byte("\n")), []byte(keyPrefix))
	if !found {
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
	return id, nil
}
