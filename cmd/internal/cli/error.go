package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// An Error is a failure as a user reads it: what it is about, what is wrong
// with it, and the command to type next.
type Error struct {
	Object string // the file, peer, address or flag; never empty
	Cause  string // one clause, lower case, without full stop
	Next   string // a command, or a short instruction; empty only where nothing helps
	Code   int    // exit code; zero: ExitFailed
	Err    error  // what was underneath, for errors.Is; may be nil
}

func (e *Error) Error() string { return e.Object + ": " + e.Cause }
func (e *Error) Unwrap() error { return e.Err }

// ExitCode returns the exit code that e stands for.
func (e *Error) ExitCode() int {
	if e.Code == 0 {
		return ExitFailed
	}
	return e.Code
}

// Usagef returns an Error for a wrong argument: object is the argument or flag.
func Usagef(object, next, format string, args ...any) *Error {
	return &Error{Object: object, Cause: fmt.Sprintf(format, args...), Next: next, Code: ExitUsage}
}

// An Explainer turns an error of a library into an Error, or returns nil when
// it does not know it. A program passes the ones it needs to Main.
type Explainer func(error) *Error

// explain finds the Error in err, asks the explainers, and otherwise says what
// err says about path, the command that failed.
func explain(err error, path string, explainers []Explainer) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, f := range explainers {
		if e := f(err); e != nil {
			return e
		}
	}
	var pathErr *fs.PathError
	var opErr *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Object: path, Cause: "interrupted", Next: "run it again; what was done is kept", Code: ExitInterrupted, Err: err}
	case errors.As(err, &pathErr):
		return &Error{Object: pathErr.Path, Cause: fmt.Sprintf("%s: %v", pathErr.Op, pathErr.Err), Next: nextForFile(pathErr), Err: err}
	case errors.As(err, &opErr) && errors.Is(err, syscall.EADDRINUSE):
		return &Error{
			Object: addressOf(opErr),
			Cause:  "the port is already taken by another program",
			Next:   "choose another port, or find the program: ss -lnptu",
			Err:    err,
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Object: path, Cause: "no answer in time: " + err.Error(), Next: "grid netcheck", Code: ExitUnreachable, Err: err}
	}
	return &Error{Object: path, Cause: err.Error(), Next: path + " --help", Err: err}
}

func nextForFile(err *fs.PathError) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "check the name: ls -l " + err.Path
	case errors.Is(err, fs.ErrPermission):
		return "check the permissions: ls -ld " + err.Path
	case errors.Is(err, syscall.ENOSPC):
		return "free some space and run it again: df -h " + err.Path
	}
	return "check the file: ls -l " + err.Path
}

func addressOf(err *net.OpError) string {
	if err.Addr != nil {
		return err.Addr.Network() + " " + err.Addr.String()
	}
	return err.Net
}

// errorDocument is the JSON form of an Error, "instantgrid/error/1".
type errorDocument struct {
	Error struct {
		Object   string `json:"object"`
		Cause    string `json:"cause"`
		Next     string `json:"next"`
		ExitCode int    `json:"exit_code"`
	} `json:"error"`
}

func (e *Error) document() errorDocument {
	var d errorDocument
	d.Error.Object, d.Error.Cause, d.Error.Next, d.Error.ExitCode = e.Object, e.Cause, e.Next, e.ExitCode()
	return d
}

// write prints e as text: what and why on one line, what to do on the next.
func (e *Error) write(w io.Writer, program string) {
	fmt.Fprintf(w, "%s: %s: %s\n", program, e.Object, e.Cause)
	if e.Next != "" {
		fmt.Fprintf(w, "  next: %s\n", e.Next)
	}
}
