// Sweep runs any program once for each line of a parameter file, on as many
// workers as there are, and prints what it said in the order of the lines.
//
//	go run ./examples/sweep -exec awk params.txt -- '{ print $1 * $2 }'
//
// It starts workers of its own, on loopback, unless -workers names those of
// others: HOST:PORT of "grid forward 7010 alice:7010", for instance. What it
// shows is the library; the command for the same is grid map.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/gridapi/rpc/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exec := flag.String("exec", "", "the program; its arguments stand behind --")
	own := flag.Int("own", 2, "workers of our own")
	workers := flag.String("workers", "", "HOST:PORT of others' workers in place of our own, with commas between them")
	flag.Parse()
	if *exec == "" || flag.NArg() < 1 {
		fmt.Fprintln(os.Stderr, "sweep: name a program and a parameter file: sweep -exec PROGRAM FILE -- ARGUMENTS")
		os.Exit(2)
	}
	args := flag.Args()[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	lines, err := readLines(flag.Arg(0))
	if err == nil {
		s := sweep{function: filepath.Base(*exec), lines: lines, out: os.Stdout}
		if *workers != "" {
			s.addresses = strings.Split(*workers, ",")
		} else {
			var end func()
			if s.addresses, end, err = startWorkers(*own, s.function, program.Config{Path: *exec, Args: args}); err == nil {
				defer end()
			}
		}
		if err == nil {
			err = s.run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sweep:", err)
		os.Exit(1)
	}
}

func readLines(file string) (lines []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines, s.Err()
}

// startWorkers starts workers that offer a program, and returns where they are
// and what ends them.
func startWorkers(n int, function string, cfg program.Config) (addresses []string, end func(), err error) {
	run, err := program.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	var workers []*rpc.Worker
	end = func() {
		for _, w := range workers {
			w.Close()
		}
	}
	for i := range n {
		w := rpc.NewWorker(rpc.WorkerConfig{Name: fmt.Sprintf("worker %d", i+1), Slots: 1})
		workers = append(workers, w)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			err = rpc.RegisterStream(w, function, run)
		}
		if err != nil {
			end()
			return nil, nil, err
		}
		addresses = append(addresses, ln.Addr().String())
		go w.Serve(ln) // ends with Close
	}
	return addresses, end, nil
}

// A sweep calls a function for each line.
type sweep struct {
	function  string
	lines     []string
	addresses []string
	out       io.Writer
}

func (s *sweep) run(ctx context.Context) error {
	var dialer net.Dialer
	c, err := rpc.NewClient(rpc.ClientConfig{Dial: dialer.DialContext, Workers: s.addresses})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Function(ctx, s.function); err != nil {
		return err
	}
	// All calls begin at once; the client gives each worker what it can take.
	results, errs := make([]bytes.Buffer, len(s.lines)), make([]error, len(s.lines))
	var calls sync.WaitGroup
	for i, line := range s.lines {
		calls.Go(func() { errs[i] = c.CallStream(ctx, s.function, rpc.Bytes(line+"\n"), &results[i]) })
	}
	calls.Wait()
	for i := range s.lines {
		if errs[i] == nil {
			_, errs[i] = results[i].WriteTo(s.out)
		}
	}
	return errors.Join(errs...)
}
