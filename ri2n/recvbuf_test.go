package ri2n

import (
	"bytes"
	"testing"
)

func TestBuffersCarryAStream(t *testing.T) {
	var (
		s   sendBuffer
		r   recvBuffer
		in  = bytes.Repeat([]byte("0123456789abcdef"), 20000)
		out []byte
		pkt [1400]byte
	)
	rest := in
	for !r.eof() {
		n := s.write(rest, 100000)
		if rest = rest[n:]; len(rest) == 0 {
			s.finish()
		}
		for {
			off, n, fin, fresh, ok := s.next(len(pkt), 1<<40)
			if !ok {
				break
			}
			if !fresh || !s.copyRange(pkt[:n], off) {
				t.Fatalf("range at %d: fresh %v", off, fresh)
			}
			if err := r.insert(off, pkt[:n], fin); err != nil {
				t.Fatal(err)
			}
			s.onAcked(off, n, fin)
		}
		var p [3000]byte
		for r.readable() > 0 {
			out = append(out, p[:r.read(p[:])]...)
		}
	}
	if !bytes.Equal(in, out) || !s.done() {
		t.Errorf("got %d bytes, done %v", len(out), s.done())
	}
}
