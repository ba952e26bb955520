// Heat lets heat flow through a square plate, in parallel on several ranks of
// gridapi/mpi, and paints the temperatures.
//
//	go run ./examples/heat -ranks 4 -png heat.png -verify
//
// Each rank is a process of its own, with a block of the plate; they exchange the
// borders of their blocks after each step, and look now and then whether the
// temperatures still change. The result is the same to the last bit for any number of
// ranks; -verify computes it once more, alone, and compares.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
)

// joinTime is how long ranks wait for each other at the start.
const joinTime = time.Minute

type options struct {
	plan
	ranks   int
	rank    int    // negative: start all ranks
	members string // of all ranks; empty: told on the standard input
	job     string
	png     string
	verify  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "heat:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("heat", flag.ContinueOnError)
	f.IntVar(&o.size, "size", 512, "cells of each side of the plate")
	f.IntVar(&o.steps, "steps", 5000, "steps at most")
	f.IntVar(&o.every, "every", 100, "steps between two looks at the change")
	f.Float64Var(&o.below, "below", 1e-4, "stop when no cell changes by more, in degrees a step")
	f.IntVar(&o.ranks, "ranks", 4, "processes to start on this computer")
	f.IntVar(&o.rank, "rank", -1, "be this rank alone, of those that -members names")
	f.StringVar(&o.members, "members", "", "HOST:PORT of each rank, with commas between them; the rank listens on its own")
	f.StringVar(&o.job, "job", "heat", "name of the job, the same at all ranks")
	f.StringVar(&o.png, "png", "", "write the temperatures as a picture to this file (rank 0)")
	f.BoolVar(&o.verify, "verify", false, "compute the plate alone as well, and compare (rank 0)")
	if err := f.Parse(args); err != nil {
		return flag.ErrHelp // Parse has said what is wrong
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("what is %q for? heat takes flags only: heat -help", f.Arg(0))
	case o.size < 1 || o.steps < 1 || o.every < 1 || o.ranks < 1:
		return errors.New("-size, -steps, -every and -ranks are at least 1")
	case o.members != "" && o.rank < 0:
		return errors.New("-members names other computers' ranks: say with -rank which of them this one is")
	case o.rank < 0:
		return o.startAll(ctx, args)
	}
	return o.runRank(ctx)
}

// startAll starts the ranks as processes of this program and waits for them. Each
// prints where it listens, and reads where the others do.
func (o options) startAll(ctx context.Context, args []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type process struct {
		cmd *exec.Cmd
		in  io.WriteCloser
		out *bufio.Reader
	}
	var all []process
	defer func() {
		cancel()
		for _, p := range all {
			p.cmd.Wait() // those that were waited for say so
		}
	}()
	job := "heat " + rand.Text()
	for r := range o.ranks {
		cmd := exec.CommandContext(ctx, program, append(slices.Clone(args), "-rank", strconv.Itoa(r), "-job", job)...)
		cmd.Stderr = os.Stderr
		cmd.WaitDelay = 5 * time.Second
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		all = append(all, process{cmd, in, bufio.NewReader(out)})
	}
	var members []string
	for r, p := range all {
		address, err := p.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("rank %d does not start: %w", r, err)
		}
		members = append(members, strings.TrimSpace(address))
	}
	for r, p := range all {
		if _, err := fmt.Fprintln(p.in, strings.Join(members, ",")); err != nil {
			return fmt.Errorf("rank %d has ended: %w", r, err)
		}
	}
	if _, err := io.Copy(os.Stdout, all[0].out); err != nil {
		return err
	}
	for r, p := range all {
		if werr := p.cmd.Wait(); werr != nil && err == nil {
			err = fmt.Errorf("rank %d: %w", r, werr)
		}
	}
	return err
}

// runRank is one rank from its beginning to its end.
func (o options) runRank(ctx context.Context) error {
	address := "127.0.0.1:0"
	var members []string
	if o.members != "" {
		members = strings.Split(o.members, ",")
		if o.rank >= len(members) {
			return fmt.Errorf("rank %d of %d: -members names too few", o.rank, len(members))
		}
		address = members[o.rank]
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if members == nil {
		fmt.Println(ln.Addr())
		in := bufio.NewReader(os.Stdin)
		line, err := in.ReadString('\n')
		if err != nil {
			ln.Close()
			return fmt.Errorf("nobody says where the other ranks are: %w", err)
		}
		members = strings.Split(strings.TrimSpace(line), ",")
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() { // who has started us must not leave us behind
			in.ReadByte()
			cancel()
		}()
	}
	var dialer net.Dialer
	within, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	ep, err := mpi.Join(within, mpi.MeshConfig{
		Job: sha256.Sum256([]byte(o.job)), Rank: o.rank, Size: len(members), Listener: ln,
		Dial: func(ctx context.Context, r int) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", members[r]) },
	})
	if err != nil {
		return err
	}
	p, err := mpi.Init(ep, mpi.Config{})
	if err != nil {
		ep.Close()
		return err
	}
	defer p.Close()
	began, said := time.Now(), time.Now()
	field, steps, err := solve(ctx, p.World(), o.plan, func(step int, change float64) {
		if o.rank == 0 && time.Since(said) > time.Second {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "step %d: changes by %.2g degrees\n", step, change)
		}
	})
	if err != nil {
		return err
	}
	if err := p.Finalize(ctx); err != nil || o.rank != 0 {
		return err
	}
	fmt.Printf("%d x %d cells, %d ranks, %d steps in %v: %s\n", o.size, o.size, len(members), steps, time.Since(began).Round(time.Millisecond), fingerprint(field))
	return o.report(field, steps)
}

// report writes the picture and compares with the serial result.
func (o options) report(field []float64, steps int) error {
	if o.png != "" {
		if err := writePNG(o.png, field, o.size); err != nil {
			return err
		}
		fmt.Println("the temperatures are in", o.png)
	}
	if !o.verify {
		return nil
	}
	want, wantSteps := serial(o.plan)
	if steps != wantSteps || fingerprint(field) != fingerprint(want) {
		return fmt.Errorf("one process alone gets another result: %d steps, %s", wantSteps, fingerprint(want))
	}
	fmt.Println("one process alone gets the same, to the last bit")
	return nil
}
