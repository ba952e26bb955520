package main

import (
	"fmt"
	"io"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// A roundProgress says what a comparison is at: on a terminal one line that is
// written over, elsewhere, as in a log, a line for each network.
type roundProgress struct {
	w        io.Writer
	terminal bool
	label    string // of the last line
}

func newRoundProgress(w io.Writer) *roundProgress {
	return &roundProgress{w: w, terminal: cli.IsTerminal(w)}
}

// set tells which round of which contender begins.
func (p *roundProgress) set(label string, round, rounds int, contender string) {
	switch {
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%s: round %d of %d: %s", label, round, rounds, contender)
	case label != p.label:
		fmt.Fprintf(p.w, "measuring %s\n", label)
	}
	p.label = label
}

// close clears the line.
func (p *roundProgress) close() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
