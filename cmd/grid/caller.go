package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/overlay"
)

// What grid call, map and workers share: they find the members that run workers,
// and connect to them through the agent, or by a node of their own.

const (
	// functionPort is where workers listen unless told otherwise.
	functionPort = 7010
	// lookTime is how often callers look for members that have come or gone.
	lookTime = 10 * time.Second
	// workerWait is how long a command waits for a worker that offers its
	// function.
	workerWait = 30 * time.Second
)

// A reach is how workers are reached.
type reach struct {
	dir     string // where a worker of this computer has its socket
	members func(ctx context.Context) (membersDocument, error)
	connect func(ctx context.Context, to string) (net.Conn, error)
}

// nodeReach reaches workers by a node of this process.
func nodeReach(dir string, node *overlay.Node) reach {
	return reach{
		dir:     dir,
		members: func(ctx context.Context) (membersDocument, error) { return listMembers(ctx, node) },
		connect: func(ctx context.Context, to string) (net.Conn, error) {
			return node.DialAccepted(ctx, "tcp", to)
		},
	}
}

// withReach runs f with the agent, or else with a node that lives as long as f.
func (o *options) withReach(cmd *cobra.Command, f func(r reach) error) error {
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	agent, err := findAgent(dir)
	if err == nil {
		return f(reach{dir: dir, members: agent.members, connect: agent.connect})
	}
	if !errors.Is(err, errNoAgent) {
		return err
	}
	return o.withNode(cmd, dir, nodeUse{}, func(node *overlay.Node) error { return f(nodeReach(dir, node)) })
}

// workerSocket is the name in the state directory of the socket of a worker of
// this computer, which a node does not connect to itself for.
func workerSocket(port uint16) string { return fmt.Sprintf("worker-%d.sock", port) }

// localSocket returns the path of the socket of a worker that runs here.
func localSocket(dir string, port uint16) (path string, found bool) {
	path = filepath.Join(dir, workerSocket(port))
	if target, err := os.Readlink(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	return path, err == nil && info.Mode().Type() == os.ModeSocket
}

// hereName stands for this computer where it has no name in a grid.
const hereName = "this-computer"

// A workerFinder tells a client where workers may be.
type workerFinder struct {
	reach
	port  uint16
	named []string // the only ones that are wanted; nil: all members

	mu   sync.Mutex // guards what follows
	here string     // our own address
}

// find returns the addresses where workers may be.
func (w *workerFinder) find(ctx context.Context) ([]string, error) {
	_, local := localSocket(w.dir, w.port)
	doc, err := w.members(ctx)
	if err != nil && len(w.named) == 0 && !local {
		return nil, err
	}
	port := strconv.Itoa(int(w.port))
	here := net.JoinHostPort(hereName, port)
	var list []string
	for _, m := range doc.Rows {
		name := m.Name
		if name == "" {
			name = m.Peer.String()
		}
		address := net.JoinHostPort(name, port)
		if m.Self {
			here = address
			continue
		}
		list = append(list, address)
	}
	w.mu.Lock()
	w.here = here
	w.mu.Unlock()
	if len(w.named) > 0 {
		return w.named, nil
	}
	if local {
		list = append(list, here)
	}
	return list, nil
}

// watch reports them until ctx ends.
func (w *workerFinder) watch(ctx context.Context, report func([]string)) error {
	ticker := time.NewTicker(lookTime)
	defer ticker.Stop()
	for {
		if list, err := w.find(ctx); err == nil {
			report(list)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dial connects to a worker; one of this computer by its socket.
func (w *workerFinder) dial(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	here := w.here
	w.mu.Unlock()
	if address == here {
		path, _ := localSocket(w.dir, w.port)
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return w.connect(ctx, address)
}

// newCaller returns a client of the workers. The error is that of finding them.
func (w *workerFinder) newCaller(ctx context.Context, cfg rpc.ClientConfig) (*rpc.Client, error) {
	list, err := w.find(ctx)
	if err != nil {
		return nil, err
	}
	cfg.Dial = w.dial
	if len(w.named) > 0 {
		cfg.Workers = list
	} else {
		cfg.Watch = w.watch
	}
	return rpc.NewClient(cfg)
}

// callerFlags are what commands that call functions have in common.
type callerFlags struct {
	port    uint16
	workers []string
}

func (f *callerFlags) add(cmd *cobra.Command) {
	cmd.Flags().Uint16Var(&f.port, "port", functionPort, "`port` of the workers")
	cmd.Flags().StringSliceVar(&f.workers, "worker", nil, "`NAME` or NAME:PORT of a member that works; may be repeated (default all that run a worker)")
}

func (f *callerFlags) finder(r reach, usage string) (*workerFinder, error) {
	w := &workerFinder{reach: r, port: f.port}
	for _, text := range f.workers {
		if !strings.Contains(text, ":") {
			text = net.JoinHostPort(text, strconv.Itoa(int(f.port)))
		}
		if _, err := parseRemote(text, usage); err != nil {
			return nil, err
		}
		w.named = append(w.named, text)
	}
	return w, nil
}

// howFlags say how calls are done.
type howFlags struct {
	wait, timeout time.Duration
	verify        string
	once          bool
}

func (f *howFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&f.wait, "wait", workerWait, "how long to wait for a worker that offers the function")
	flags.DurationVar(&f.timeout, "timeout", 0, "longest time for a call, its repetitions included (default none)")
	flags.StringVar(&f.verify, "verify", "", "`NofM`, as 2of3: take a result when N of at most M workers agree")
	flags.BoolVar(&f.once, "once", false, "never do a call a second time, also when its worker is lost")
}

// options returns what the flags say, for the client.
func (f *howFlags) options(usage string) (list []rpc.Option, err error) {
	if f.verify != "" {
		need, of, err := parseVerify(f.verify)
		if err != nil {
			return nil, cli.Usagef("--verify "+f.verify, usage+" --verify 2of3", "%v", err)
		}
		list = append(list, rpc.Verify(need, of))
	}
	if f.once && f.verify != "" {
		return nil, cli.Usagef("--once", usage, "a call that several workers do is not done once")
	}
	if f.once {
		list = append(list, rpc.AtMostOnce())
	}
	return list, nil
}

// parseVerify decodes 2of3.
func parseVerify(text string) (need, of int, err error) {
	n, m, found := strings.Cut(text, "of")
	need, errN := strconv.Atoi(n)
	of, errM := strconv.Atoi(m)
	if !found || errN != nil || errM != nil || need < 2 || of < need || of > 16 {
		return 0, 0, errors.New("it is not NofM, with 2 or more of at most 16")
	}
	return need, of, nil
}

// call returns the context of one call.
func (f *howFlags) call(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout > 0 {
		return context.WithTimeout(ctx, f.timeout)
	}
	return context.WithCancel(ctx)
}

// function waits for a worker that offers the function.
func (f *howFlags) function(ctx context.Context, c *rpc.Client, name string) (rpc.FunctionInfo, error) {
	waiting, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	info, err := c.Function(waiting, name)
	if ctx.Err() != nil {
		return info, ctx.Err()
	}
	if err == nil && info.Kind != rpc.KindValues && info.Kind != rpc.KindStream {
		return info, &cli.Error{
			Object: "function " + name, Cause: "it works on the state of a " + info.Kind.String() + ", which a command does not keep",
			Next: "call it from a program (docs/rpc.md), or another function: grid workers", Code: cli.ExitUsage,
		}
	}
	return info, err
}

// A watched call is what the client's events tell of it.
type watchedCall struct {
	starts int
	worker string // that gave the result
}

// A callWatch follows calls by a client's events.
type callWatch struct {
	mu      sync.Mutex // guards what follows
	calls   map[uint64]*watchedCall
	retries int
}

func newCallWatch() *callWatch { return &callWatch{calls: make(map[uint64]*watchedCall)} }

// begin is told the number of a call that is to be followed.
func (w *callWatch) begin(call uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[call] = new(watchedCall)
}

// event is rpc.ClientConfig.OnEvent.
func (w *callWatch) event(e rpc.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls[e.Call]
	if c == nil {
		return
	}
	switch e.Kind {
	case rpc.EventStarted:
		if c.starts++; c.starts > 1 {
			w.retries++
		}
	case rpc.EventDone:
		c.worker = e.Worker
	}
}

// end forgets a call and returns what was seen of it.
func (w *callWatch) end(call uint64) watchedCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls[call]
	delete(w.calls, call)
	if c == nil {
		return watchedCall{}
	}
	return *c
}

// again returns how many times a call was begun that had been begun before.
func (w *callWatch) again() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.retries
}

// workerName is an address without the usual port.
func workerName(address string) string {
	return strings.TrimSuffix(address, ":"+strconv.Itoa(functionPort))
}
