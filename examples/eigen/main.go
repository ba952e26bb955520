// Eigen finds the eigenvalues of a large sparse symmetric matrix that lie in an
// interval, master and workers over gridapi/rpc: the moment-based solver with
// which OmniRPC was shown. The matrix is that of an electron in a disordered
// crystal, and a dense solver of one computer checks the result.
//
//	go run ./examples/eigen
//	go run ./examples/eigen -side 40 -from 2 -to 2.3
//
// Each point of a contour integral is a linear system of its own and becomes a
// call; the matrix, which every call needs, goes through [Data] once. Workers run
// in this process, unless others are named, which then share a directory:
//
//	go run ./examples/eigen -serve 127.0.0.1:7010 -data /srv/data
//	go run ./examples/eigen -workers 127.0.0.1:7010 -data /srv/data
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	side := flag.Int("side", 24, "of the lattice; the matrix has the square of it")
	s := Search{Points: 32, Columns: 12, Moments: 6, Seed: 1}
	flag.Float64Var(&s.From, "from", 2.0, "least eigenvalue")
	flag.Float64Var(&s.To, "to", 2.4, "largest eigenvalue")
	flag.IntVar(&s.Points, "points", s.Points, "of the contour; half of them are calls")
	flag.IntVar(&s.Columns, "columns", s.Columns, "right-hand sides of a call")
	flag.IntVar(&s.Moments, "moments", s.Moments, "moments of each")
	workers := flag.String("workers", "", "HOST:PORT of workers, with commas between them (default three in this process)")
	serve := flag.String("serve", "", "be a worker at this HOST:PORT")
	dir := flag.String("data", "", "directory that master and workers share (default: memory)")
	flag.Parse()
	var data Data = new(Memory)
	if *dir != "" {
		data = Directory(*dir)
	}
	var err error
	switch {
	case *serve != "":
		err = work(ctx, *serve, data)
	case *workers != "" && *dir == "":
		err = fmt.Errorf("workers of other processes find the matrix in a directory: -data DIRECTORY")
	default:
		err = master(ctx, os.Stdout, s, Disordered(*side, 2, 1), data, *workers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "eigen:", err)
		os.Exit(1)
	}
}

// work is a worker until ctx ends.
func work(ctx context.Context, address string, data Data) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	w := rpc.NewWorker(rpc.WorkerConfig{})
	defer context.AfterFunc(ctx, func() { w.Close() })()
	solver := &Solver{Data: data}
	if err := solver.Register(w); err != nil {
		return err
	}
	fmt.Println("resolvent at", ln.Addr())
	if err := w.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// ownWorkers is how many run in the master's process.
const ownWorkers = 3

// master searches, prints what it finds, and compares it with the reference.
func master(ctx context.Context, out io.Writer, s Search, m *Matrix, data Data, workers string) error {
	var addresses []string
	if workers != "" {
		addresses = strings.Split(workers, ",")
	}
	for i := 0; workers == "" && i < ownWorkers; i++ {
		w := rpc.NewWorker(rpc.WorkerConfig{Name: fmt.Sprintf("worker %d", i+1), Slots: 1})
		defer w.Close()
		if err := (&Solver{Data: data}).Register(w); err != nil {
			return err
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addresses = append(addresses, ln.Addr().String())
		go w.Serve(ln) // ends with Close
	}
	var dialer net.Dialer
	c, err := rpc.NewClient(rpc.ClientConfig{Dial: dialer.DialContext, Workers: addresses})
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(out, "matrix      %d x %d, %d entries, band %d\n", m.Size, m.Size, m.Size+2*len(m.Value), m.Band())
	begun := time.Now()
	found, err := s.Run(ctx, c, data, m, func(call, calls int) {})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "calls       %d on %d workers, %v\n", s.Points/2, len(addresses), time.Since(begun).Round(time.Millisecond))
	begun = time.Now()
	want := s.Reference(m)
	fmt.Fprintf(out, "reference   dense, on this computer, %v\n", time.Since(begun).Round(time.Millisecond))
	if len(found) != len(want) {
		return fmt.Errorf("%d eigenvalues found and %d expected between %v and %v; try more -columns or -points", len(found), len(want), s.From, s.To)
	}
	worst := 0.0
	for i, f := range found {
		fmt.Fprintf(out, "%4d  %.12f  residual %.1e  off by %.1e\n", i+1, f.Value, f.Residual, math.Abs(f.Value-want[i]))
		worst = math.Max(worst, math.Abs(f.Value-want[i]))
	}
	if worst > 1e-8 {
		return fmt.Errorf("an eigenvalue is off by %.1e", worst)
	}
	_, err = fmt.Fprintf(out, "eigen: ok (%d eigenvalues, all within %.0e)\n", len(found), math.Max(worst, 1e-15))
	return err
}
