package main

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
)

// publicFiles are those of a state directory that hold no secret. Whatever else
// lies there is taken for one.
var publicFiles = []string{
	"allow", "rendezvous", "addresses", "grid", "membership", "members", "revocations",
	"policy.yaml", configFile, lockFile, socketFile, journal.FileName,
}

// Secrets are at least this long; what is shorter is no key and no token.
const leastSecret = 16

// maxSecretFile is the largest file that is read for secrets, in bytes.
const maxSecretFile = 1 << 20

// A secretSet is what must not leave a computer, in every form that it may be
// written in.
type secretSet struct{ forms [][]byte }

// secretsIn reads the secrets of a state directory.
func secretsIn(dir string) (s secretSet, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // what this user cannot read, this user's report cannot hold
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || !e.Type().IsRegular() || slices.Contains(publicFiles, name) {
			return err
		}
		if info, err := e.Info(); err != nil || info.Size() > maxSecretFile {
			return nil // gone, or data that is being received
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
		for word := range strings.FieldsFuncSeq(string(b), func(r rune) bool { return strings.ContainsRune(" \t\r\n\",:{}[]", r) }) {
			s.add(word)
		}
		return nil
	})
	// The longest first: a part of another must not hide it.
	slices.SortFunc(s.forms, func(a, b []byte) int { return len(b) - len(a) })
	return s, err
}

// lower32 is how this project writes keys and tokens.
var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// add takes a word of a file: as it is, and as the bytes that it may encode in
// each of the usual forms.
func (s *secretSet) add(word string) {
	if len(word) < leastSecret {
		return
	}
	s.forms = append(s.forms, []byte(word))
	decoded := [][]byte{}
	for _, decode := range []func(string) ([]byte, error){
		base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
		hex.DecodeString, lower32.DecodeString,
	} {
		if b, err := decode(word); err == nil && len(b) >= leastSecret {
			decoded = append(decoded, b)
		}
	}
	for _, b := range decoded {
		s.forms = append(s.forms, b,
			[]byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b))),
			[]byte(base64.RawStdEncoding.EncodeToString(b)), []byte(base64.RawURLEncoding.EncodeToString(b)),
			[]byte(lower32.EncodeToString(b)), []byte(strings.ToUpper(lower32.EncodeToString(b))))
	}
}

// remove returns b without the secrets.
func (s *secretSet) remove(b []byte) []byte {
	for _, form := range s.forms {
		b = bytes.ReplaceAll(b, form, []byte("[removed]"))
	}
	return b
}
