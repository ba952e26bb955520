package main

import (
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

// TestMain is the program itself for the ranks that TestProcesses starts.
func TestMain(m *testing.M) {
	if os.Getenv("HEAT_TEST_RANK") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestLikeSerial cuts a plate among different numbers of ranks, evenly and not: each
// cell is as one process computes it, to the last bit.
func TestLikeSerial(t *testing.T) {
	cfg := plan{size: 37, steps: 1000, every: 25, below: 0.02}
	want, wantSteps := serial(cfg)
	if wantSteps < 100 || wantSteps == cfg.steps {
		t.Fatalf("%d steps alone: the plate settles too early, or not at all", wantSteps)
	}
	for _, ranks := range []int{1, 2, 3, 4, 6} {
		mpitest.Run(t, mpitest.TCP(t, ranks), mpi.Config{}, func(_ *mpi.Process, c *mpi.Comm) error {
			got, steps, err := solve(t.Context(), c, cfg, func(int, float64) {})
			if err != nil || c.Rank() != 0 {
				return err
			}
			if steps != wantSteps {
				t.Errorf("%d ranks: %d steps, want %d", ranks, steps, wantSteps)
			}
			for i := range want {
				if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
					t.Errorf("%d ranks: cell %d is %v, want %v", ranks, i, got[i], want[i])
					break
				}
			}
			return nil
		})
	}
}

// TestHeatFlows: a plate that has settled holds what physics says: each cell is the mean
// of its neighbours, and none is hotter than the edge.
func TestHeatFlows(t *testing.T) {
	const size = 16
	field, _ := serial(plan{size: size, steps: 10000, every: 10, below: 1e-9})
	for i := 1; i < size-1; i++ {
		for j := 1; j < size-1; j++ {
			u := field[i*size+j]
			mean := (field[(i-1)*size+j] + field[(i+1)*size+j] + field[i*size+j-1] + field[i*size+j+1]) / 4
			if math.Abs(u-mean) > 1e-6 || u <= 0 || u >= 100 {
				t.Fatalf("cell %d, %d is %v, the mean around it %v", i, j, u, mean)
			}
		}
	}
}

// TestProcesses runs the program: three ranks, each a process.
func TestProcesses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "heat.png")
	cmd := exec.CommandContext(t.Context(), self, "-ranks", "3", "-size", "50", "-steps", "200", "-png", file, "-verify")
	cmd.Env = append(os.Environ(), "HEAT_TEST_RANK=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the same, to the last bit") {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() != 50 || b.Dy() != 50 {
		t.Errorf("the picture has %v", b)
	}
	hot, _, _, _ := img.At(25, 0).RGBA()
	cold, _, _, _ := img.At(49, 49).RGBA()
	if hot <= cold {
		t.Errorf("the hot edge has red %d, the cold corner %d", hot, cold)
	}
}
