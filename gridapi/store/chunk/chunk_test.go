package chunk

import (
	"bytes"
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	id := Sum([]byte("a"))
	if got, err := Parse(id.String()); err != nil || got != id {
		t.Errorf("Parse(%s) = %v, %v", id, got, err)
	}
	for _, bad := range []string{"", id.String()[1:], id.String() + "0", "CA" + id.String()[2:], "zz" + id.String()[2:]} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", bad, got)
		}
	}
}

func TestVerify(t *testing.T) {
	long := make([]byte, MaxSize+1)
	for _, tt := range []struct {
		name   string
		id     ID
		sealed []byte
		want   error
	}{
		{"right", Sum([]byte("a")), []byte("a"), nil},
		{"largest", Sum(long[1:]), long[1:], nil},
		{"other bytes", Sum([]byte("a")), []byte("b"), ErrMismatch},
		{"truncated", Sum([]byte("ab")), []byte("a"), ErrMismatch},
		{"empty", Sum(nil), nil, ErrTooLarge},
		{"too large", Sum(long), long, ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Verify(tt.id, tt.sealed); !errors.Is(got, tt.want) {
				t.Errorf("Verify = %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Sum(nil).String())
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if text, _ := id.MarshalText(); !bytes.Equal(text, []byte(s)) {
			t.Errorf("%q decodes to %s", s, text)
		}
	})
}
