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
	pending map[testName][]string // output of tests that have not ended, or failed below one that has not
	order   []testName            // of pending, as they started
	closing map[string][]string   // output of packages outside tests, by package
	skips   []skip
	counts  map[string]int // by closing action, top-level tests and subtests alike
}

func newReport(w io.Writer) *report {
	return &report{
		w:       w,
		pending: make(map[testName][]string),
		closing: make(map[string][]string),
		counts:  make(map[string]int),
	}
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
		if e.Test == "" {
			r.closing[e.Package] = append(r.closing[e.Package], e.Output)
			return
		}
		if _, ok := r.pending[name]; !ok {
			r.order = append(r.order, name)
		}
		r.pending[name] = append(r.pending[name], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.closePackage(e)
			return
		}
		r.counts[e.Action]++
		switch e.Action {
		case "pass":
			r.take(name)
		case "fail":
			if !strings.Contains(e.Test, "/") {
				r.fail(name)
			}
		case "skip":
			r.skips = append(r.skips, skip{name, reasonOf(r.take(name))})
		}
	}
}

// fail prints a test that failed, then its subtests that did.
func (r *report) fail(name testName) {
	for _, n := range r.order {
		if n == name || n.pkg == name.pkg && strings.HasPrefix(n.test, name.test+"/") {
			io.WriteString(r.w, strings.Join(r.take(n), ""))
		}
	}
}

// closePackage prints how a package ended: the closing line, and before it
// what the package wrote outside its tests if it failed.
func (r *report) closePackage(e event) {
	lines := r.closing[e.Package]
	delete(r.closing, e.Package)
	for i, line := range lines {
		if e.Action == "fail" || i == len(lines)-1 {
			io.WriteString(r.w, line)
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
	for _, lines := range r.closing {
		io.WriteString(r.w, strings.Join(lines, ""))
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
