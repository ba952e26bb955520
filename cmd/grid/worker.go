package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/gridapi/rpc/program"
)

// A workerSpec says what a worker offers: one program as a function.
type workerSpec struct {
	program.Config
	name  string // empty: that of the program
	slots int
	port  uint16
}

// function returns the name of the function.
func (w *workerSpec) function() string {
	if w.name != "" {
		return w.name
	}
	base := filepath.Base(w.Path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// start returns a worker, which has no listener yet. Calls run below the state
// directory; what a worker that was killed has left there is removed.
func (w *workerSpec) start(dir string, log *slog.Logger) (*rpc.Worker, error) {
	w.Dir = w.callsDir(dir)
	if err := os.RemoveAll(w.Dir); err != nil {
		log.Warn("calls of a worker that was killed are not removed", "path", w.Dir, "err", err)
	}
	if err := os.MkdirAll(w.Dir, 0o700); err != nil {
		return nil, err
	}
	f, err := program.New(w.Config)
	if err != nil {
		return nil, &cli.Error{Object: "--exec " + w.Path, Cause: strings.TrimPrefix(err.Error(), "program: "), Next: "check the names: grid worker --help", Code: cli.ExitUsage, Err: err}
	}
	worker := rpc.NewWorker(rpc.WorkerConfig{Slots: w.slots, Logger: log})
	if err := rpc.RegisterStream(worker, w.function(), f); err != nil {
		return nil, cli.Usagef("--name "+w.function(), "grid worker --exec ./codeml --name codeml", "%s", strings.TrimPrefix(err.Error(), "rpc: "))
	}
	return worker, nil
}

// callsDir returns where the directories of calls are made.
func (w *workerSpec) callsDir(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("calls-%d", w.port))
}

// listenLocal opens the socket of a worker in the state directory, in place of
// one that nobody listens on any more.
func listenLocal(dir string, port uint16) (ln net.Listener, path string, err error) {
	path, found := localSocket(dir, port)
	if found {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, "", &cli.Error{
				Object: fmt.Sprintf("port %d", port), Cause: "a worker of this computer has it already",
				Next: fmt.Sprintf("take another, and name it to the callers, too: --port %d", port+1),
			}
		}
		os.Remove(path)
	}
	link := filepath.Join(dir, workerSocket(port))
	os.Remove(link)
	path = link
	if len(path) > maxSocketPath {
		short, err := os.MkdirTemp("", "grid-worker-") // 0700
		if err != nil {
			return nil, "", err
		}
		path = filepath.Join(short, "socket")
		if err := os.Symlink(path, link); err != nil {
			return nil, "", err
		}
	}
	ln, err = net.Listen("unix", path)
	if err != nil {
		return nil, "", err
	}
	if err := os.Chmod(path, 0o600); err != nil { // the directory is closed as well
		ln.Close()
		return nil, "", err
	}
	return ln, path, nil
}

// removeLocal removes what listenLocal has left.
func removeLocal(dir, path string, port uint16) {
	link := filepath.Join(dir, workerSocket(port))
	if path != link {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Remove(link)
}

// workerDocument is "instantgrid/worker/1".
type workerDocument struct {
	Function string   `json:"function"`
	Program  string   `json:"program"`
	Port     uint16   `json:"port"`
	Slots    int      `json:"slots"` // 0: one for each processor
	OpenTo   []string `json:"open_to"`
	Agent    bool     `json:"agent"` // the agent listens for it
	Next     string   `json:"next"`
}

// agentPause is how often a worker looks for an agent that has ended.
const agentPause = 2 * time.Second

func workerCommand(o *options) *cobra.Command {
	w := &workerSpec{}
	var memory, disk sizeValue
	cmd := &cobra.Command{
		Use:   "worker --exec PROGRAM [-- ARGUMENT...]",
		Short: "Offer a program as a function to the members of the grid",
		Long: `Run PROGRAM for each call that a member makes, with the arguments behind --, in
a directory of its own that is removed afterwards. What the caller sends becomes
the file of --in, or the program's standard input; what the program leaves in the
file of --out, or else prints, is the result. With several files of --in or --out
it is a tar archive of them.

Who may call is decided by the file policy.yaml in the state directory: without a
rule that opens the port, no member may. A program runs as this user and may do
what this user may; --time, --memory and --disk bound what it takes.

The agent listens for it if it runs, otherwise this command itself; until it is
interrupted. When it is, calls that are under way go to other workers. The section
worker of the agent's configuration makes one last.`,
		Example: `grid worker --exec ./codeml --in ctl --out mlc
grid worker --exec ./render --slots 2 --time 10m --memory 1G --disk 1G
grid worker --exec tr --name upper -- a-z A-Z`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if w.Path == "" {
				return cli.Usagef("--exec", "grid worker --exec PROGRAM", "it is needed: the program that does the work")
			}
			w.Args, w.Memory, w.Disk = args, int64(memory), int64(disk)
			if w.slots < 0 || w.slots > 1<<16-1 {
				return cli.Usagef("--slots "+strconv.Itoa(w.slots), "grid worker --exec PROGRAM --slots 2", "it is not within 0 and 65535")
			}
			if w.port == 0 {
				return cli.Usagef("--port 0", "grid worker --exec PROGRAM --port 7010", "callers must know the port")
			}
			return o.work(cmd, w)
		},
	}
	f := cmd.Flags()
	f.StringVar(&w.Path, "exec", "", "`program` that carries out a call")
	f.StringSliceVar(&w.In, "in", nil, "`file` that a call brings (default the standard input); may be repeated")
	f.StringSliceVar(&w.Out, "out", nil, "`file` that is the result (default the standard output); may be repeated")
	f.StringVar(&w.name, "name", "", "`name` of the function (default that of the program)")
	f.IntVar(&w.slots, "slots", 0, "calls at once (default one for each processor)")
	f.Uint16Var(&w.port, "port", functionPort, "`port` of this node to listen on")
	f.DurationVar(&w.Time, "time", time.Hour, "longest time for a call")
	f.Var(&memory, "memory", "most address space of a process, as 1G (default no bound)")
	f.Var(&disk, "disk", "most that a call's directory may hold (default 1G)")
	f.StringSliceVar(&w.Env, "env", nil, "`NAME=VALUE` that the program finds in its environment; may be repeated")
	return cmd
}

// work runs a worker until the command is interrupted.
func (o *options) work(cmd *cobra.Command, w *workerSpec) error {
	ctx := cmd.Context()
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	logging := defaultLog()
	ln, path, err := listenLocal(dir, w.port)
	if err != nil {
		return err
	}
	defer removeLocal(dir, path, w.port)
	worker, err := w.start(dir, logging.newLogger(cmd, slog.LevelInfo))
	if err != nil {
		ln.Close()
		return err
	}
	defer os.Remove(w.Dir)
	defer worker.Close()
	served := make(chan error, 1)
	go func() { served <- worker.Serve(ln) }()

	spec := serviceSpec{Kind: kindExpose, Listen: ":" + strconv.Itoa(int(w.port)), To: socketPrefix + path}
	told := false
	ready := func(r serviceReady) error {
		if told {
			cli.Note(cmd, "the agent is back")
			return nil
		}
		told = true
		return o.announceWorker(cmd, w, r)
	}
	err = o.runService(cmd, spec, ready)
	// A worker outlives its agent, and is there again when that is.
	for ctx.Err() == nil && told && (errors.Is(err, errNoAgent) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		if !errors.Is(err, errNoAgent) {
			cli.Note(cmd, "the agent has ended; waiting for it: grid up")
		}
		select {
		case <-ctx.Done():
			err = nil
		case <-time.After(agentPause):
			var agent *agentClient
			if agent, err = findAgent(dir); err == nil {
				err = o.runInAgent(cmd, agent, spec, ready)
			}
		}
	}
	worker.Close()
	<-served
	if told {
		c := worker.Counters()
		cli.Note(cmd, "worked: %d calls, %d of them failed", c.Calls, c.Failures)
	}
	if ctx.Err() != nil {
		return nil // an interrupt is its usual end
	}
	return err
}

// announceWorker says what is offered, and to whom.
func (o *options) announceWorker(cmd *cobra.Command, w *workerSpec, r serviceReady) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), memberTime)
	defer cancel()
	open, err := r.openTo(ctx, w.port)
	if err != nil {
		open = []string{}
	}
	doc := workerDocument{
		Function: w.function(), Program: w.Path, Port: w.port, Slots: w.slots, OpenTo: open, Agent: r.agent,
		Next: "on a member that may call: grid call " + w.function(),
	}
	if len(open) == 0 {
		doc.Next = fmt.Sprintf("let members call: write into policy.yaml in the state directory, under rules: - {names: [\"*\"], ports: [%d]}", w.port)
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "worker", doc)
	}
	out := cmd.OutOrStdout()
	slots := strconv.Itoa(doc.Slots)
	if doc.Slots == 0 {
		slots = "one for each processor"
	}
	fmt.Fprintf(out, "function  %s\nprogram   %s\nport      %d\nslots     %s\n", doc.Function, doc.Program, doc.Port, slots)
	_, err = fmt.Fprintf(out, "open to   %s\n", orText(strings.Join(open, ", "), "nobody but this computer: the policy opens the port to no member"))
	cli.Note(cmd, "next: %s", doc.Next)
	return err
}

// A sizeValue is a number of bytes on the command line: 500M, 1G.
type sizeValue int64

// String implements pflag.Value.
func (s *sizeValue) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Set implements pflag.Value.
func (s *sizeValue) Set(text string) error {
	n, err := parseSize(text)
	*s = sizeValue(n)
	return err
}

// Type implements pflag.Value.
func (s *sizeValue) Type() string { return "SIZE" }

// parseSize decodes a number of bytes with K, M, G or T behind it, each 1024 of
// the one before.
func parseSize(text string) (int64, error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I")
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("KMGT", digits[n-1]); i >= 0 {
			shift, digits = 10*(i+1), digits[:n-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<(62-shift) {
		return 0, fmt.Errorf("%q is not a size like 500M or 1G", text)
	}
	return n << shift, nil
}
