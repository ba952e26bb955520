package transfer

import (
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Suffixes of what a receiver keeps beside the file until it is complete.
const (
	partSuffix    = ".part"
	journalSuffix = ".part.journal"
)

// CheckName reports whether name may come from a peer as the name of a file:
// one component, readable, at most 255 bytes with the suffixes that a receiver
// adds, and not hidden. The error is a [*NameError].
func CheckName(name string) error {
	bad := func(problem string) error { return &NameError{Name: printable(name), Problem: problem} }
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > maxName-len(journalSuffix):
		return bad("it is too long")
	case !utf8.ValidString(name):
		return bad("it is not UTF-8 text")
	case strings.ContainsAny(name, `/\`):
		return bad("it holds a path separator")
	case strings.ContainsFunc(name, unprintable):
		return bad("it holds a control character")
	case name[0] == '.':
		return bad("it is hidden, since it starts with a dot")
	case strings.TrimSpace(name) != name || name[len(name)-1] == '.':
		return bad("it begins or ends with a character that file systems drop")
	case strings.HasSuffix(name, partSuffix), strings.HasSuffix(name, journalSuffix):
		return bad("its ending is kept for unfinished transfers")
	case !filepath.IsLocal(name) || filepath.Base(name) != name:
		return bad("this system reserves it")
	}
	return nil
}

// unprintable is true of control characters and of those that change how the
// text around them is shown, such as a reversed direction of writing.
func unprintable(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r)
}

// printable returns s with every character that could command a terminal or
// mislead a reader replaced, and cut at maxName bytes.
func printable(s string) string {
	s = s[:min(len(s), maxName)]
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '?'
		}
		return r
	}, s)
}

// otherName suggests a name beside one that is taken: report-2.pdf.
func otherName(dir, name string, exists func(path string) bool) string {
	ext := filepath.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	for _, n := range []string{"-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9"} {
		if other := stem + n + ext; !exists(filepath.Join(dir, other)) {
			return other
		}
	}
	return stem + "-new" + ext
}
