package main

import (
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// logSettings say what is logged, and how.
type logSettings struct{ level, format string }

func defaultLog() logSettings { return logSettings{level: "info", format: "auto"} }

func (l *logSettings) section() config.Section {
	return config.Section{
		Name: "log",
		Doc:  "What goes to the standard error. The fields are in docs/logs.md.",
		Keys: []config.Key{
			{Name: "level", Value: &l.level, Live: true, OneOf: []string{"debug", "info", "warn", "error"}, Doc: "The least that is logged."},
			{Name: "format", Value: &l.format, OneOf: []string{"auto", "text", "json"}, Doc: "A line for each record: key=value as text, or one JSON object. auto is json with --json, else text."},
		},
	}
}

func (l *logSettings) apply(a *agent) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return err
	}
	a.level.Set(level)
	return nil
}

// newLogger returns a logger that writes to the standard error of cmd, and to
// more.
func (l *logSettings) newLogger(cmd *cobra.Command, level slog.Leveler, more ...io.Writer) *slog.Logger {
	w := io.MultiWriter(append([]io.Writer{cmd.ErrOrStderr()}, more...)...)
	if l.format == "json" || l.format == "auto" && cli.JSON(cmd) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// maxLogLines and maxLogLine bound a logRing, in lines and in bytes of each.
const (
	maxLogLines = 1000
	maxLogLine  = 2000
)

// A logRing keeps the newest lines of the log, for grid bugreport. It may be
// used concurrently.
type logRing struct {
	mu    sync.Mutex // guards what follows
	lines []string
	next  int // where the next line goes once lines is full
}

// Write takes one record, as log handlers write them.
func (r *logRing) Write(b []byte) (int, error) {
	line := string(b[:min(len(b), maxLogLine)])
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) < maxLogLines {
		r.lines = append(r.lines, line)
	} else {
		r.lines[r.next] = line
		r.next = (r.next + 1) % maxLogLines
	}
	return len(b), nil
}

// all returns the lines, the oldest first.
func (r *logRing) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.lines[r.next:], r.lines[:r.next])
}
