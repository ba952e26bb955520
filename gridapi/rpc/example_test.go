package rpc_test

import (
	"context"
	"fmt"
	"net"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// A worker and a client over TCP; node.Listen and node.DialContext of package
// overlay take the place of package net's between homes.
func Example() {
	worker := rpc.NewWorker(rpc.WorkerConfig{Name: "alice"})
	defer worker.Close()
	rpc.Register(worker, "square", func(ctx context.Context, x float64) (float64, error) { return x * x, nil })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go worker.Serve(ln)

	var dialer net.Dialer
	client, err := rpc.NewClient(rpc.ClientConfig{Dial: dialer.DialContext, Workers: []string{ln.Addr().String()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	var calls []*rpc.Session[float64]
	for x := range 4 {
		s, err := rpc.CallAsync[float64, float64](context.Background(), client, "square", float64(x))
		if err != nil {
			fmt.Println(err)
			return
		}
		calls = append(calls, s)
	}
	for _, s := range calls {
		y, err := s.Wait(context.Background())
		fmt.Println(y, err)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 4 <nil>
	// 9 <nil>
}
