package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// callDocument is "instantgrid/call/1".
type callDocument struct {
	Function string     `json:"function"`
	Call     uint64     `json:"call"`
	Worker   string     `json:"worker"`
	Attempts int        `json:"attempts"`
	Seconds  cli.Number `json:"seconds"`
	resultFields
}

// resultFields are a result in a document: one of the first three, or what is
// in a file.
type resultFields struct {
	Value json.RawMessage `json:"value,omitempty"` // of a function on values
	Text  *string         `json:"text,omitempty"`  // of a program, where it is UTF-8
	Bytes []byte          `json:"bytes,omitempty"` // otherwise, in base64
	File  string          `json:"file,omitempty"`
}

func fieldsOf(info rpc.FunctionInfo, result []byte) (f resultFields) {
	switch {
	case info.Kind == rpc.KindValues:
		f.Value = result
	case utf8.Valid(result):
		text := string(result)
		f.Text = &text
	default:
		f.Bytes = result
	}
	return f
}

func callCommand(o *options) *cobra.Command {
	var f callerFlags
	var how howFlags
	var in []string
	var out string
	cmd := &cobra.Command{
		Use:   "call FUNCTION [ARGUMENT]",
		Short: "Call a function on a worker of the grid",
		Long: `Have a worker of the grid carry out a call and print its result. A function that
works on values takes and returns JSON. A program (grid worker --exec) takes and
returns bytes: its argument is ARGUMENT, a file of --in, or the standard input for
--in -; several files, each as --in NAME=FILE, go as an archive.

When a worker is lost or silent another one does the call, and the first result
counts; --once forbids that.`,
		Example: `grid call square 3
grid call codeml --in ctl --out mlc
grid call render --in scene=my.scene --in texture=wood.png --out image.png
grid call distance '{"from":"Kyoto","to":"Tsukuba"}' --verify 2of3`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := how.options("grid call FUNCTION")
			if err != nil {
				return err
			}
			text := ""
			if len(args) > 1 {
				text = args[1]
			}
			if len(args) > 1 && len(in) > 0 {
				return cli.Usagef("--in", "grid call FUNCTION --in FILE", "there is an argument on the command line as well")
			}
			argument, clean, err := argumentOf(cmd.InOrStdin(), text, in)
			if err != nil {
				return err
			}
			defer clean()
			return o.withReach(cmd, func(r reach) error {
				finder, err := f.finder(r, "grid call FUNCTION --worker NAME:PORT")
				if err != nil {
					return err
				}
				return callOnce(cmd, finder, args[0], argument, out, how, options)
			})
		},
	}
	f.add(cmd)
	how.add(cmd)
	cmd.Flags().StringArrayVar(&in, "in", nil, "`FILE` that is the argument; - is the standard input; as NAME=FILE one of several")
	cmd.Flags().StringVar(&out, "out", "", "`file` for the result (default the standard output)")
	return cmd
}

// callOnce makes one call and prints its result.
func callOnce(cmd *cobra.Command, finder *workerFinder, function string, argument rpc.Source, out string, how howFlags, options []rpc.Option) error {
	watch := newCallWatch()
	c, err := finder.newCaller(cmd.Context(), rpc.ClientConfig{OnEvent: watch.event})
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := how.function(cmd.Context(), c, function)
	if err != nil {
		return err
	}
	var number uint64
	options = append(options, rpc.OnStart(func(call uint64) { number = call; watch.begin(call) }))
	ctx, cancel := how.call(cmd.Context())
	defer cancel()
	begun := time.Now()
	var result bytes.Buffer
	document := func() callDocument {
		seen := watch.end(number)
		return callDocument{
			Function: function, Call: number, Worker: workerName(seen.worker), Attempts: seen.starts,
			Seconds: cli.Number(time.Since(begun).Round(time.Millisecond).Seconds()),
		}
	}
	if out != "" {
		err := replaceFile(out, func(w io.Writer) error { return carryOut(ctx, c, info, argument, w, options) })
		if err != nil {
			return err
		}
		doc := document()
		doc.File = out
		if cli.JSON(cmd) {
			return cli.PrintJSON(cmd, "call", doc)
		}
		cli.Note(cmd, "%s: by %s in %s", out, doc.Worker, secondsText(time.Since(begun)))
		return nil
	}
	if !cli.JSON(cmd) {
		if err := carryOut(ctx, c, info, argument, cmd.OutOrStdout(), options); err != nil || info.Kind != rpc.KindValues {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout())
		return err
	}
	if err := carryOut(ctx, c, info, argument, &result, options); err != nil {
		return err
	}
	doc := document()
	doc.resultFields = fieldsOf(info, result.Bytes())
	return cli.PrintJSON(cmd, "call", doc)
}

// carryOut calls a function of either kind and writes its result.
func carryOut(ctx context.Context, c *rpc.Client, info rpc.FunctionInfo, argument rpc.Source, w io.Writer, options []rpc.Option) error {
	if info.Kind == rpc.KindStream {
		return c.CallStream(ctx, info.Name, argument, w, options...)
	}
	value, err := readSource(argument)
	if err != nil {
		return err
	}
	if value = bytes.TrimSpace(value); len(value) == 0 {
		value = []byte("null")
	}
	if !json.Valid(value) {
		next := "write it as JSON; a text stands in quotation marks"
		if info.Signature != "" {
			next += "; the function is " + info.Signature
		}
		return cli.Usagef("argument of "+info.Name, next, "it is not JSON: %.60q", value)
	}
	result, err := c.CallEncoded(ctx, info.Name, rpc.JSON, value, options...)
	if err != nil {
		return err
	}
	_, err = w.Write(result)
	return err
}

// maxValue bounds an argument that is a value, in bytes, as workers do.
const maxValue = 256 << 20

func readSource(s rpc.Source) ([]byte, error) {
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxValue+1))
	if err == nil && len(b) > maxValue {
		err = cli.Usagef("argument", "give the function a stream or a name of the data", "a value has at most %s", sizeText(maxValue))
	}
	return b, err
}

// argumentOf returns the argument of a call, which may be read several times,
// and what removes files that it needs.
func argumentOf(stdin io.Reader, text string, in []string) (_ rpc.Source, clean func(), err error) {
	clean = func() {}
	if len(in) == 0 {
		return rpc.Bytes(text), clean, nil
	}
	if file := in[0]; len(in) == 1 && !strings.Contains(file, "=") {
		if file != "-" {
			info, err := os.Stat(file)
			if err == nil && !info.Mode().IsRegular() {
				err = cli.Usagef("--in "+file, "name a file", "it is no file")
			}
			return rpc.File(file), clean, err
		}
		return spooled(func(w io.Writer) error { _, err := io.Copy(w, stdin); return err })
	}
	return spooled(func(w io.Writer) error {
		archive := tar.NewWriter(w)
		for _, text := range in {
			name, file, named := strings.Cut(text, "=")
			if !named {
				return cli.Usagef("--in "+text, "grid call FUNCTION --in a=FILE --in b=FILE", "of several files each needs the name that the program knows it by")
			}
			if err := addFile(archive, name, file); err != nil {
				return err
			}
		}
		return archive.Close()
	})
}

func addFile(archive *tar.Writer, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: name, Size: info.Size(), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// spooled returns what write writes as a file, to be read several times.
func spooled(write func(io.Writer) error) (rpc.Source, func(), error) {
	f, err := os.CreateTemp("", "grid-call-argument-")
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(write(f), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return nil, nil, err
	}
	return rpc.File(f.Name()), func() { os.Remove(f.Name()) }, nil
}

// replaceFile writes a file, whole and on disk or not at all.
func replaceFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // a device, or a pipe
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
