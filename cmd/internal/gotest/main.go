// Command gotest runs "go test" and prints its ordinary output, followed by
// the list of skipped tests with the reason that each gave. With
// -require-kernel, a skipped kernel test is a failure: whoever runs the tests
// as root is told when the kernel half of them did not run.
//
//	go run ./cmd/internal/gotest [-require-kernel] -- [go test arguments]
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
)

func main() {
	requireKernel := flag.Bool("require-kernel", false, "fail when a kernel test is skipped")
	flag.Parse()
	os.Exit(run(os.Stdout, os.Stderr, *requireKernel, flag.Args()))
}

// run runs go test with args and returns its exit code, or 1 when a kernel
// test was skipped that must not be.
func run(stdout, stderr io.Writer, requireKernel bool, args []string) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(stderr, "gotest:", err)
		return 1
	}
	fmt.Fprintln(stdout, "+ go test", quote(args))
	// An interrupt from the terminal reaches go test as well; it ends by
	// itself, and what it reports last is still printed.
	signal.Ignore(os.Interrupt)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "gotest:", err)
		return 1
	}
	r := newReport(stdout)
	readErr := r.read(events)
	waitErr := cmd.Wait()
	missing := r.finish()
	switch {
	case waitErr != nil:
		fmt.Fprintln(stdout, "FAIL: go test:", waitErr)
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		return 1
	case readErr != nil:
		fmt.Fprintln(stderr, "gotest: read events:", readErr)
		return 1
	case requireKernel && len(missing) > 0:
		fmt.Fprintf(stdout, "FAIL: %d kernel tests were skipped, though this is root\n", len(missing))
		return 1
	}
	return 0
}
