package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/tun"
	"github.com/instantgrid/instantgrid/ri2n"
)

// The agent answers other grid commands of the same user over HTTP on a Unix
// socket in its state directory (docs/control-protocol.md). Errors come as the
// document "instantgrid/error/1".

// controlProtocol is the version that begins the path of every request.
const controlProtocol = 1

const (
	// protocolPath says which versions an agent speaks; it has none itself.
	protocolPath = "/control"

	statusPath = "/v1/status"
	pingPath   = "/v1/ping"

	resolvePath     = "/v1/resolve"
	membersPath     = "/v1/members"
	openPath        = "/v1/open"
	revocationsPath = "/v1/revocations"

	// maxSocketPath is what the smallest sun_path holds, with its end.
	maxSocketPath = 103
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 16 << 20
)

// pingAnswer is "instantgrid/ping-answer/1".
type pingAnswer struct {
	RTT  time.Duration      `json:"rtt_ns"`
	Path overlay.PathStatus `json:"path"`
}

// protocolAnswer is "instantgrid/control/1".
type protocolAnswer struct {
	Protocols []int `json:"protocols"`
	cli.VersionInfo
}

// A controlServer is the agent's side of the socket.
type controlServer struct {
	mux   *http.ServeMux
	group int // that may use the socket besides this user; -1: none
	parts []func(*agentStatus)

	http *http.Server  // nil: it does not serve yet
	done chan struct{} // closed when it has ended
}

// newControl returns a server that answers for node; [controlServer.handle]
// adds to it.
func newControl(node *overlay.Node) *controlServer {
	s := &controlServer{mux: http.NewServeMux(), group: -1}
	s.handle("GET "+protocolPath, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "control", protocolAnswer{Protocols: []int{controlProtocol}, VersionInfo: cli.Version("grid")})
	})
	s.handle("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "status", s.status(node))
	})
	s.handle("GET "+pingPath, func(w http.ResponseWriter, r *http.Request) {
		peer, err := ri2n.ParsePeerID(r.URL.Query().Get("peer"))
		if err != nil {
			answerError(w, cli.Usagef("peer", "grid ping PEERID", "this is not a peer ID"))
			return
		}
		rtt, path, err := pingOnce(r.Context(), node, peer)
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "ping-answer", pingAnswer{rtt, path})
	})
	serveMembers(s.mux, node)
	serveLookup(s.mux, node)
	return s
}

// agentStatus is "instantgrid/status/1": what the node knows, and what parts of
// the agent add.
type agentStatus struct {
	overlay.Status
	Interface *tun.Status     `json:"interface,omitempty"` // nil: none was made
	Functions *functionStatus `json:"functions,omitempty"` // nil: nothing was called here
	Services  []serviceStatus `json:"services"`            // that the agent runs
}

// describe has f add to the status, before serve.
func (s *controlServer) describe(f func(*agentStatus)) { s.parts = append(s.parts, f) }

func (s *controlServer) status(node *overlay.Node) agentStatus {
	status := agentStatus{Status: node.Status()}
	for _, f := range s.parts {
		f(&status)
	}
	return status
}

// handle adds a request that the agent answers, before serve.
func (s *controlServer) handle(pattern string, f http.HandlerFunc) { s.mux.HandleFunc(pattern, f) }

// serve listens in dir, whose identity this process has taken: a socket that is
// there belongs to nobody any more. Requests end with ctx.
func (s *controlServer) serve(ctx context.Context, dir string) error {
	path := filepath.Join(dir, socketFile)
	if len(path) > maxSocketPath {
		return &cli.Error{
			Object: path, Cause: fmt.Sprintf("a socket's path has at most %d characters, and this one has %d", maxSocketPath, len(path)),
			Next: "choose a shorter state directory: --dir DIRECTORY", Code: cli.ExitUsage,
		}
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		return &cli.Error{
			Object: path, Cause: "a directory is where the control socket belongs",
			Next: "move it away: mv " + path + " " + path + ".old",
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	// The directory is closed to others before as well.
	if err = os.Chmod(path, 0o600); err == nil {
		err = s.openToGroup(dir, path)
	}
	if err != nil {
		ln.Close()
		return err
	}
	s.http = &http.Server{Handler: s.mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.http.Serve(ln) // ends with Close
	}()
	return nil
}

// openToGroup lets the group through the directory, without seeing what is in
// it, and at the socket.
func (s *controlServer) openToGroup(dir, path string) error {
	if s.group < 0 {
		return nil
	}
	for _, file := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o710}, {path, 0o660}} {
		if err := os.Chown(file.path, -1, s.group); err != nil {
			return &cli.Error{
				Object: "control.group", Cause: fmt.Sprintf("%s cannot be given to group %d: %v", file.path, s.group, err),
				Next: "name a group that this user is in: id -Gn", Code: cli.ExitUsage, Err: err,
			}
		}
		if err := os.Chmod(file.path, file.mode); err != nil {
			return err
		}
	}
	return nil
}

// closePatience bounds how long Close waits for answers that are being written.
const closePatience = time.Second

// Close ends what is being answered and removes the socket.
func (s *controlServer) Close() {
	if s.http == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	<-s.done
}

func answer(w http.ResponseWriter, name string, v any) {
	b, err := cli.AppendDocument(nil, name, v)
	if err != nil {
		answerError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

// errorAnswer is cli's error document.
type errorAnswer struct {
	Error struct {
		Object   string `json:"object"`
		Cause    string `json:"cause"`
		Next     string `json:"next"`
		ExitCode int    `json:"exit_code"`
	} `json:"error"`
}

// errorOf explains err.
func errorOf(err error) (doc errorAnswer) {
	var e *cli.Error
	if !errors.As(err, &e) {
		if e = explain(err); e == nil {
			e = &cli.Error{Object: "the agent", Cause: err.Error()}
		}
	}
	doc.Error.Object, doc.Error.Cause, doc.Error.Next, doc.Error.ExitCode = e.Object, e.Cause, e.Next, e.ExitCode()
	return doc
}

func (doc errorAnswer) asError() *cli.Error {
	e := doc.Error
	return &cli.Error{Object: e.Object, Cause: e.Cause, Next: e.Next, Code: e.ExitCode}
}

func answerError(w http.ResponseWriter, err error) {
	b, err := cli.AppendDocument(nil, "error", errorOf(err))
	if err != nil {
		b = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadGateway)
	w.Write(b)
}

// errNoAgent reports that no agent runs with a state directory.
var errNoAgent = errors.New("no agent runs")

// An agentClient asks the agent of a state directory.
type agentClient struct {
	http *http.Client
	dial func(ctx context.Context) (net.Conn, error)
}

// findAgent returns a client of the agent in dir, or errNoAgent.
func findAgent(dir string) (*agentClient, error) {
	path := filepath.Join(dir, socketFile)
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		if os.IsPermission(err) {
			return nil, err
		}
		return nil, errNoAgent
	}
	c.Close()
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &agentClient{dial: dial, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}}, nil
}

// needAgent returns a client of the agent that runs with the state directory.
func (o *options) needAgent() (*agentClient, error) {
	dir, err := o.stateDir()
	if err != nil {
		return nil, err
	}
	agent, err := findAgent(dir)
	if errors.Is(err, errNoAgent) {
		err = &cli.Error{Object: "agent", Cause: "none runs with the state directory " + dir, Next: "start it: grid up", Err: err}
	}
	return agent, err
}

// get asks for path and decodes the document into v.
func (a *agentClient) get(ctx context.Context, path string, v any) error {
	return a.do(ctx, http.MethodGet, path, nil, v)
}

func (a *agentClient) do(ctx context.Context, method, path string, body io.Reader, v any) error {
	res, err := a.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(v); err != nil {
		return &cli.Error{Object: "the agent", Cause: "its answer makes no sense: " + err.Error(), Next: "restart it, so that it has the version of this program: grid down, then grid up"}
	}
	return nil
}

// send asks, and returns the answer unless it is an error.
func (a *agentClient) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := a.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &cli.Error{Object: "the agent", Cause: "it does not answer: " + err.Error(), Next: "see whether it still runs: grid status", Err: err}
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	return nil, a.failure(ctx, res)
}

// failure decodes an answer that is an error.
func (a *agentClient) failure(ctx context.Context, res *http.Response) error {
	var doc errorAnswer
	if json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&doc) != nil || doc.Error.Object == "" {
		return a.mismatch(ctx, res.Status)
	}
	return doc.asError()
}

// mismatch explains an answer that no agent of this version gives.
func (a *agentClient) mismatch(ctx context.Context, status string) error {
	ours := cli.Version("grid").Version
	theirs := "another version"
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+protocolPath, nil)
	if err != nil {
		return err
	}
	if res, err := a.http.Do(req); err == nil {
		var doc protocolAnswer
		if json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&doc) == nil && doc.Version != "" {
			theirs = doc.Version
		}
		res.Body.Close()
	}
	return &cli.Error{
		Object: "the agent", Cause: fmt.Sprintf("it does not know this request (%s): it is %s, and this program is %s", status, theirs, ours),
		Next: "restart the agent with the newer program of the two: grid down, then grid up",
	}
}

func (a *agentClient) status(ctx context.Context) (s agentStatus, err error) {
	err = a.get(ctx, statusPath, &s)
	return s, err
}

func (a *agentClient) ping(ctx context.Context, peer ri2n.PeerID) (time.Duration, overlay.PathStatus, error) {
	var p pingAnswer
	err := a.get(ctx, pingPath+"?peer="+url.QueryEscape(peer.String()), &p)
	return p.RTT, p.Path, err
}

// livePeers completes a peer on the command line with those that the agent
// talks to. It is silent when there is none.
func (o *options) livePeers(ctx context.Context) []string {
	dir := o.dir
	if dir == "" {
		var err error
		if dir, err = defaultDir(); err != nil {
			return nil
		}
	}
	agent, err := findAgent(dir)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := agent.status(ctx)
	if err != nil {
		return nil
	}
	var list []string
	for _, p := range s.Peers {
		list = append(list, p.ID.String()+"\t"+pathText(p.Path))
	}
	return list
}
