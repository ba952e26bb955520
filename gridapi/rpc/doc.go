// Package rpc calls functions on other members' computers: GridRPC's model
// (GFD.52) with OmniRPC's persistent modules, as a Go programmer expects it.
//
// A [Worker] offers functions; a [Client] knows workers and spreads calls over
// them. [Call] waits for the result and [CallAsync] returns a [Session] to
// probe, cancel and wait on. A call is carried out at least once: when its
// worker dies, sleeps or is slow, another one does it too, and the first result
// counts. [AtMostOnce] forbids that. [Verify] has several workers do the same
// call and compares what they say.
//
// The first calls are [NewWorker], [Register] and [Worker.Serve] on one side,
// [NewClient] and [Call] on the other:
//
//	w := rpc.NewWorker(rpc.WorkerConfig{})
//	rpc.Register(w, "square", func(ctx context.Context, x float64) (float64, error) { return x * x, nil })
//	ln, err := node.Listen("tcp", ":7010")
//	go w.Serve(ln)
//
//	c, err := rpc.NewClient(rpc.ClientConfig{Dial: node.DialContext, Workers: []string{"alice:7010"}})
//	y, err := rpc.Call[float64, float64](ctx, c, "square", 3)
//
// All exported functions and methods may be called from several goroutines.
// What arguments and results look like on the wire is in docs/rpc-protocol.md.
//
// It needs nothing of its connections but net.Conn, authorizes nobody (the
// listener's node does) and stores nothing.
package rpc
