package disk

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// putterVariable, in the environment, makes the test program one that puts
// chunks into the directory it names, from the number it names.
const putterVariable = "INSTANTGRID_TEST_PUTTER"

// putForEver prints the number of each chunk once it is acknowledged.
func putForEver() {
	dir, first, _ := strings.Cut(os.Getenv(putterVariable), "|")
	n, _ := strconv.Atoi(first)
	d, err := Open(Config{Dir: dir, Quota: 1 << 30, SegmentSize: minSegment})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for ; ; n++ {
		if n%100 == 0 {
			d.saveSnapshot()
		}
		if err := d.Put(content(n, 8+n%5000)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// TestKill kills a program that puts chunks, with SIGKILL at random moments, and
// finds all that it had acknowledged.
func TestKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	next := 0
	for round := range 4 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", putterVariable, dir, next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		last := -1
		for lines.Scan() {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatalf("round %d: %s", round, lines.Text())
			}
			if kill == nil { // it has begun
				kill = time.AfterFunc(time.Duration(rand.IntN(200))*time.Millisecond, func() { cmd.Process.Kill() })
				defer kill.Stop()
			}
		}
		cmd.Wait()
		if last < next {
			t.Fatalf("round %d: nothing was acknowledged", round)
		}
		next = last + 1
		d, err := Open(Config{Dir: dir, Quota: 1 << 30, SegmentSize: minSegment})
		if err != nil {
			t.Fatal(err)
		}
		x := &fixture{Disk: d, t: t}
		for n := range next {
			x.want(n, 8+n%5000)
		}
		x.abandon()
	}
	t.Logf("%d chunks", next)
}
