package frame

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	b := Append(nil, 7, func(b []byte) []byte { return AppendText(append(b, 1, 2), "name") })
	b = Append(b, 8, nil)
	if want := "\x07\x00\x00\x00\x08\x01\x02\x00\x04name\x08\x00\x00\x00\x00"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	kind, n, err := ReadHeader(r)
	if kind != 7 || n != 8 || err != nil {
		t.Fatal(kind, n, err)
	}
	body := make([]byte, n)
	io.ReadFull(r, body)
	f := FieldsOf(body)
	if f.U16() != 0x0102 || f.Text(4) != "name" || !f.Whole() {
		t.Error("other fields than were written")
	}
	if kind, n, err = ReadHeader(r); kind != 8 || n != 0 || err != nil {
		t.Fatal(kind, n, err)
	}
	if _, _, err = ReadHeader(r); err != io.EOF {
		t.Error(err)
	}
	if _, _, err = ReadHeader(bufio.NewReader(strings.NewReader("\x07\x00"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// Whatever is asked of whatever bytes, nothing panics, and a bad body stays bad.
func TestFieldsOfGarbage(t *testing.T) {
	for n := range 20 {
		f := FieldsOf(bytes.Repeat([]byte{0xff}, n))
		_ = [32]byte(f.Take(32))
		if f.U8() != 0 || f.U16() != 0 || f.U32() != 0 || f.U64() != 0 || f.Text(9) != "" || f.Rest(9) != nil {
			t.Errorf("of %d bytes something is left", n)
		}
		if !f.Bad() || f.Whole() {
			t.Errorf("%d bytes are called good", n)
		}
	}
	f := FieldsOf([]byte("\x00\x05hello"))
	if f.Text(4) != "" || !f.Bad() {
		t.Error("a text that is too long was taken")
	}
	if f := FieldsOf([]byte("four")); len(f.Take(-1)) != 0 || !f.Bad() {
		t.Error("less than nothing was taken")
	}
	if f := FieldsOf([]byte("four")); f.Rest(3) != nil || !f.Bad() {
		t.Error("a rest that is too long was taken")
	}
}
