package membership

import (
	"fmt"
	"strings"
)

// MaxName is the longest name of a member or a grid, in bytes: far below a DNS
// label, and never as long as a peer ID.
const MaxName = 32

// CheckName returns nil for a DNS label of at most [MaxName] lower-case letters,
// digits and hyphens that neither begins nor ends with a hyphen.
func CheckName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("membership: the name is empty")
	case len(s) > MaxName:
		return fmt.Errorf("membership: the name %q has %d characters, more than %d", s[:MaxName]+"...", len(s), MaxName)
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("membership: the name %q begins or ends with a hyphen", s)
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("membership: the name %q holds %q; lower-case letters, digits and hyphens may be in a name", s, c)
		}
	}
	return nil
}

// NameFrom makes a name of any text, such as a host name: "Alice's PC" becomes
// "alice-s-pc". Text without a letter or digit becomes "node".
func NameFrom(text string) string {
	text, _, _ = strings.Cut(strings.ToLower(text), ".")
	var b strings.Builder
	for _, c := range text {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	name := b.String()
	if len(name) > MaxName-3 { // room for a number behind it
		name = name[:MaxName-3]
	}
	if name = strings.Trim(name, "-"); name == "" {
		return "node"
	}
	return name
}

// A Pattern is a name, or the beginning of one with an asterisk behind it. "*"
// stands for all names.
type Pattern string

// Check returns nil for a pattern that some name can match.
func (p Pattern) Check() error {
	prefix, wild := strings.CutSuffix(string(p), "*")
	if wild && prefix == "" {
		return nil
	}
	if err := CheckName(strings.TrimSuffix(prefix, "-")); err != nil {
		return fmt.Errorf("membership: the pattern %q is neither a name nor the beginning of one with a * behind it", string(p))
	}
	if !wild {
		return CheckName(prefix)
	}
	return nil
}

// Match reports whether name fits.
func (p Pattern) Match(name string) bool {
	if prefix, wild := strings.CutSuffix(string(p), "*"); wild {
		return strings.HasPrefix(name, prefix)
	}
	return string(p) == name
}
