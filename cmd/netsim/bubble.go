package main

import (
	"os"
	"testing"
	"testing/synctest"
)

// withBubbles runs f, then ends the process with the exit code that f returns.
// f may run functions in virtual time with bubbles.run.
//
// Virtual time belongs to package testing, so f runs as a test. Package testing
// reads os.Args and writes to os.Stdout: it gets a command line without
// arguments and the standard error instead; f is given the real standard
// output.
func withBubbles(f func(b bubbles, stdout *os.File) (exitCode int)) {
	testing.Init()
	stdout := os.Stdout
	os.Stdout = os.Stderr
	os.Args = os.Args[:1]
	test := testing.InternalTest{Name: "bubbles", F: func(t *testing.T) {
		os.Exit(f(bubbles{t}, stdout))
	}}
	match := func(pattern, name string) (bool, error) { return true, nil }
	testing.Main(match, []testing.InternalTest{test}, nil, nil)
}

// bubbles runs functions in virtual time.
type bubbles struct{ t *testing.T }

// run calls f with a clock that moves when everything waits, and returns when
// f and all goroutines that it started have ended. A goroutine that never ends
// is a panic. Whatever f waits for must have been made inside f.
func (b bubbles) run(f func()) {
	synctest.Test(b.t, func(*testing.T) { f() })
}
