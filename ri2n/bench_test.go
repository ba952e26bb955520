package ri2n

import (
	"io"
	"testing"
)

// BenchmarkBulkLoopback is one stream over one path of the loopback interface,
// both ends in this process.
func BenchmarkBulkLoopback(b *testing.B) {
	client, server := loopbackPair(b)
	st, in := streamPair(b, client, server)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	done := make(chan int64)
	go func() {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, make([]byte, 256<<10))
		done <- n
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := st.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	st.CloseWrite()
	<-done
}
