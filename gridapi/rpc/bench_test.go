package rpc

import (
	"context"
	"net"
	"testing"
)

// BenchmarkCall measures one small call over loopback TCP, and many at once.
func BenchmarkCall(b *testing.B) {
	w := NewWorker(WorkerConfig{Slots: 64})
	defer w.Close()
	must(b, Register(w, "add", func(_ context.Context, x args) (float64, error) { return x.A + x.B, nil }))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	go w.Serve(ln)
	var d net.Dialer
	c, err := NewClient(ClientConfig{Dial: d.DialContext, Workers: []string{ln.Addr().String()}})
	must(b, err)
	defer c.Close()
	must(b, c.WaitWorkers(b.Context(), 1))
	b.Run("calls=1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Call[args, float64](b.Context(), c, "add", args{1, 2}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("calls=64", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := Call[args, float64](b.Context(), c, "add", args{1, 2}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
