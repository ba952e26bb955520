package kernel

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// BenchmarkTCP carries 16 MiB from one home to a public host over kernel TCP:
// what this process can pass between the devices.
func BenchmarkTCP(b *testing.B) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
		b.Run(fmt.Sprintf("delay=%v", delay), func(b *testing.B) {
			n := start(b, pair(netsim.Link{}, netsim.Link{Delay: delay}))
			l, err := n.Host("server").(*Host).Listen(b.Context(), 80)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			conn, err := n.Host("a").(*Host).Dial(b.Context(), l.Addr().(*net.TCPAddr).AddrPort())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			far, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer far.Close()
			const size = 16 << 20
			chunk := make([]byte, 1<<17)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				go func() {
					for range size / len(chunk) {
						if _, err := conn.Write(chunk); err != nil {
							return
						}
					}
				}()
				if _, err := io.CopyN(io.Discard, far, size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
