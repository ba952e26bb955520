package main

import (
	"fmt"
	"io"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// A progressLine is one line on a terminal that is written over. Off a
// terminal it writes nothing. One goroutine at a time uses it.
type progressLine struct {
	w     io.Writer // nil: no terminal
	shown int       // width of what the line shows
}

func newProgressLine(w io.Writer) *progressLine {
	if !cli.IsTerminal(w) {
		return &progressLine{}
	}
	return &progressLine{w: w}
}

// Set replaces the line.
func (p *progressLine) Set(format string, args ...any) {
	if p.w == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(p.w, "\r%-*s", p.shown, text)
	p.shown = len(text)
}

// Close clears the line.
func (p *progressLine) Close() {
	if p.w != nil && p.shown > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.shown, "")
		p.shown = 0
	}
}
