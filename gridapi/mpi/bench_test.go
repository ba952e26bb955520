package mpi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

// What is measured, on the loopback: half a round trip between two ranks, and an
// allreduce of four. testdata/bench.c is the same for other MPIs.
var (
	pingSizes      = []int{1, 1 << 10, 64 << 10, 1 << 20}
	allreduceSizes = []int{8, 1 << 20}
)

// measure makes rounds calls: ping-pong if there are two ranks, else allreduce.
func measure(ctx context.Context, c *mpi.Comm, size, rounds int) error {
	if c.Size() > 2 {
		in, out := make([]float64, size/8), make([]float64, size/8)
		for range rounds {
			if err := mpi.Allreduce(ctx, c, in, out, mpi.Sum[float64]()); err != nil {
				return err
			}
		}
		return nil
	}
	buf := make([]byte, size)
	for i := range rounds {
		if i%2 == c.Rank() {
			if err := c.Send(ctx, buf, 1-c.Rank(), 0); err != nil {
				return err
			}
		} else if _, err := c.Recv(ctx, buf, 1-c.Rank(), 0); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkGoroutines has its ranks in one process, which share nothing but
// sockets.
func BenchmarkGoroutines(b *testing.B) {
	each(b, func(b *testing.B, n, size int) {
		mpitest.Run(b, mpitest.TCP(b, n), mpi.Config{}, func(_ *mpi.Process, c *mpi.Comm) error {
			if c.Rank() == 0 {
				b.ResetTimer()
			}
			return measure(context.Background(), c, size, b.N)
		})
	})
}

// BenchmarkProcesses has each rank in a process of its own.
func BenchmarkProcesses(b *testing.B) {
	each(b, func(b *testing.B, n, size int) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		members := []string{ln.Addr().String()}
		var others []*exec.Cmd
		var tell []io.Writer
		for r := 1; r < n; r++ {
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), rankVariable+"="+strconv.Itoa(r))
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			address, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			members = append(members, strings.TrimSpace(address))
			others, tell = append(others, cmd), append(tell, in)
		}
		for _, in := range tell {
			fmt.Fprintln(in, strings.Join(members, ","))
		}
		err = benchRank(ctx, ln, 0, members, func(_ *mpi.Process, c *mpi.Comm) error {
			if err := mpi.Bcast(ctx, c, []int{size, b.N}, 0); err != nil {
				return err
			}
			b.ResetTimer()
			err := measure(ctx, c, size, b.N)
			b.StopTimer()
			return err
		})
		for _, cmd := range others {
			err = errors.Join(err, cmd.Wait())
		}
		if err != nil {
			b.Fatal(err)
		}
	})
}

// each runs what is measured.
func each(b *testing.B, run func(b *testing.B, n, size int)) {
	for _, size := range pingSizes {
		b.Run(fmt.Sprint("pingpong/", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			run(b, 2, size)
		})
	}
	for _, size := range allreduceSizes {
		b.Run(fmt.Sprint("allreduce/", size), func(b *testing.B) { run(b, 4, size) })
	}
}

// rankVariable makes this program a rank of BenchmarkProcesses.
const rankVariable = "MPI_BENCHMARK_RANK"

func init() {
	s := os.Getenv(rankVariable)
	if s == "" {
		return
	}
	if err := otherRank(s); err != nil {
		fmt.Fprintf(os.Stderr, "rank %s: %v\n", s, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// otherRank says where it listens, reads where the others do, and makes the calls that rank 0
// asks for.
func otherRank(s string) error {
	rank, err := strconv.Atoi(s)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	ctx := context.Background()
	return benchRank(ctx, ln, rank, strings.Split(strings.TrimSpace(line), ","), func(_ *mpi.Process, c *mpi.Comm) error {
		what := make([]int, 2)
		if err := mpi.Bcast(ctx, c, what, 0); err != nil {
			return err
		}
		return measure(ctx, c, what[0], what[1])
	})
}

func benchRank(ctx context.Context, ln net.Listener, rank int, members []string, body func(*mpi.Process, *mpi.Comm) error) error {
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ep, err := mpi.Join(within, mpi.MeshConfig{Rank: rank, Size: len(members), Listener: ln, Dial: func(ctx context.Context, r int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", members[r])
	}})
	if err != nil {
		return err
	}
	p, err := mpi.Init(ep, mpi.Config{})
	if err != nil {
		return err
	}
	if err := body(p, p.World()); err != nil {
		p.Close()
		return err
	}
	return p.Finalize(ctx)
}
