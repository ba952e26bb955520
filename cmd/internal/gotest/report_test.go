package main

import (
	"os"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	events, err := os.Open("testdata/events.json")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	want, err := os.ReadFile("testdata/report.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(events); err != nil {
		t.Fatal(err)
	}
	kernel := r.finish()
	if got := out.String(); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if len(kernel) != 1 || kernel[0].test != "TestOutside" {
		t.Errorf("kernel tests skipped = %v, want TestOutside", kernel)
	}
}

func TestReasonOf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		output []string
		want   string
	}{
		{"plain", []string{"=== RUN   TestA\n", "    a_test.go:7: needs root\n", "--- SKIP: TestA (0.00s)\n"}, "needs root"},
		{"logged before", []string{"    a_test.go:6: seed 1\n", "    a_test.go:7: needs root\n"}, "needs root"},
		{"two lines", []string{"    a_test.go:7: needs root:\n", "        run with sudo\n"}, "needs root: run with sudo"},
		{"none", []string{"=== RUN   TestA\n", "--- SKIP: TestA (0.00s)\n"}, "no reason given"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := reasonOf(tt.output); got != tt.want {
				t.Errorf("reasonOf(%q) = %q, want %q", tt.output, got, tt.want)
			}
		})
	}
}
