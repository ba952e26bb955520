package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"time"
)

// An event is one line of "go test -json" (go doc test2json); build lines
// carry an ImportPath in place of a Package.
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Output  string
}

// A testName is one test of one package.
type testName struct{ pkg, test string }

// A skip is a test that skipped itself, and why.
type skip struct {
	testName
	reason string
}

// A report turns events into what "go test" without -json would have printed:
// the output of tests that fail, and the closing line of each package.
type report struct {
	w       io.Writer
	pending map[testName][]string // output of tests that have not ended
	order   []testName            // of pending, as they started
	skips   []skip
	counts  map[string]int // by closing action, top-level tests and subtests alike
}

func newReport(w io.Writer) *report {
	return &report{w: w, pending: make(map[testName][]string), counts: make(map[string]int)}
}

// read consumes events until r ends. Lines that are no events, which go test
// prints when it cannot even start, are passed through.
func (r *report) read(events io.Reader) error {
	in := bufio.NewReader(events)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.add(e)
			} else {
				r.w.Write(line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) add(e event) {
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		io.WriteString(r.w, e.Output)
	case "output":
		switch {
		case e.Test != "":
			if _, ok := r.pending[name]; !ok {
				r.order = append(r.order, name)
			}
			r.pending[name] = append(r.pending[name], e.Output)
		case e.Output != "PASS\n":
			io.WriteString(r.w, e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			return
		}
		r.counts[e.Action]++
		out := r.take(name)
		switch e.Action {
		case "fail":
			io.WriteString(r.w, strings.Join(out, ""))
		case "skip":
			r.skips = append(r.skips, skip{name, reasonOf(out)})
		}
	}
}

// take removes and returns the output of a test that ended.
func (r *report) take(name testName) []string {
	out := r.pending[name]
	delete(r.pending, name)
	return out
}

// finish prints what tests had written that never ended (a panic, a time-out),
// then the skipped tests, then the totals. It returns the kernel tests that
// were skipped.
func (r *report) finish() (kernel []skip) {
	for _, name := range r.order {
		if out := r.take(name); len(out) > 0 {
			fmt.Fprintf(r.w, "--- did not end: %s %s\n%s", name.pkg, name.test, strings.Join(out, ""))
		}
	}
	sort.Slice(r.skips, func(i, j int) bool {
		a, b := r.skips[i].testName, r.skips[j].testName
		if a.pkg != b.pkg {
			return a.pkg < b.pkg
		}
		return a.test < b.test
	})
	if len(r.skips) > 0 {
		fmt.Fprintf(r.w, "skipped tests:\n")
	}
	for _, s := range r.skips {
		fmt.Fprintf(r.w, "  %s %s: %s\n", s.pkg, s.test, s.reason)
		if s.needsKernel() {
			kernel = append(kernel, s)
		}
	}
	fmt.Fprintf(r.w, "tests: %d passed, %d failed, %d skipped\n", r.counts["pass"], r.counts["fail"], r.counts["skip"])
	return kernel
}

// kernelWords are what a test's name or reason says when it wants root's
// rights to the kernel's network.
var kernelWords = regexp.MustCompile(`(?i)kernel|\broot\b|namespace|netns|CAP_NET_ADMIN|/dev/net/tun`)

func (s skip) needsKernel() bool {
	return kernelWords.MatchString(s.test) || kernelWords.MatchString(s.reason)
}

// logPrefix is the "file.go:12: " that testing puts before a logged line.
var logPrefix = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// reasonOf finds the text that a test gave to Skip: the last thing it logged.
func reasonOf(output []string) string {
	var reason string
	for _, line := range strings.Split(strings.Join(output, ""), "\n") {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "", strings.HasPrefix(trimmed, "=== "), strings.HasPrefix(trimmed, "--- "):
		case logPrefix.MatchString(line):
			reason = logPrefix.ReplaceAllString(line, "")
		case reason != "":
			reason += " " + trimmed
		}
	}
	if reason == "" {
		return "no reason given"
	}
	return reason
}

// quote joins args for display.
func quote(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if strings.ContainsAny(a, " \t$'\"*") || a == "" {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
