package ri2n

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func TestVarint(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    uint64
		want string
	}{
		{"zero", 0, "00"},
		{"largest of one byte", 63, "3f"},
		{"smallest of two bytes", 64, "4040"},
		{"RFC 9000, appendix A.1, two bytes", 15293, "7bbd"},
		{"largest of two bytes", 1<<14 - 1, "7fff"},
		{"smallest of four bytes", 1 << 14, "80004000"},
		{"RFC 9000, appendix A.1, four bytes", 494878333, "9d7f3e7d"},
		{"largest of four bytes", 1<<30 - 1, "bfffffff"},
		{"smallest of eight bytes", 1 << 30, "c000000040000000"},
		{"RFC 9000, appendix A.1, eight bytes", 151288809941952652, "c2197c5eff14e88c"},
		{"largest of all", maxVarint, "ffffffffffffffff"},
	} {
		b := appendVarint(nil, tt.v)
		if got := hex.EncodeToString(b); got != tt.want {
			t.Errorf("%s: %d is %s, want %s", tt.name, tt.v, got, tt.want)
		}
		if got := varintLen(tt.v); got != len(b) {
			t.Errorf("%s: varintLen = %d, want %d", tt.name, got, len(b))
		}
		v, rest, err := parseVarint(append(b, 0xaa))
		if err != nil || v != tt.v || !bytes.Equal(rest, []byte{0xaa}) {
			t.Errorf("%s: parsed as %d, rest %x, %v", tt.name, v, rest, err)
		}
		for n := range b {
			if _, _, err := parseVarint(b[:n]); err != errTruncated {
				t.Errorf("%s: first %d bytes: %v, want %v", tt.name, n, err, errTruncated)
			}
		}
	}
}

func TestVarintNotMinimal(t *testing.T) {
	for _, s := range []string{
		"4000", "403f", "4025", "80000000", "80003fff", "c000000000000000", "c00000003fffffff",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		if v, _, err := parseVarint(b); err != errMalformed {
			t.Errorf("%s: %d, %v; want %v", s, v, err, errMalformed)
		}
	}
}

func TestVarintTooLarge(t *testing.T) {
	for name, call := range map[string]func(){
		"append": func() { appendVarint(nil, maxVarint+1) },
		"len":    func() { varintLen(maxVarint + 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s takes 2^62", name)
				}
			}()
			call()
		}()
	}
}
