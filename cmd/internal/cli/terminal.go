package cli

import (
	"io"
	"os"

	"golang.org/x/term"
)

// IsTerminal reports whether w is a terminal that understands cursor movement.
// Off a terminal no escape sequence and no carriage return may be written.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// Color reports whether w may be written to in colour (https://no-color.org).
// Colour never carries meaning alone: the same text must do without it.
func Color(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && IsTerminal(w)
}
