package main

import (
	"bytes"
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
// socket in its state directory: GET /v1/status, GET /v1/ping?peer=PEERID, GET
// /v1/resolve?name=NAME, GET /v1/members, and GET and POST /v1/revocations.
// Errors come as the document "instantgrid/error/1".

const (
	statusPath = "/v1/status"
	pingPath   = "/v1/ping"

	resolvePath     = "/v1/resolve"
	membersPath     = "/v1/members"
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

// A controlServer is the agent's side of the socket.
type controlServer struct {
	http *http.Server
	done chan struct{}
}

// serveControl listens in dir, whose identity this process has taken: a socket
// that is there belongs to nobody any more.
func serveControl(dir string, node *overlay.Node, iface *tun.Interface) (*controlServer, error) {
	path := filepath.Join(dir, socketFile)
	if len(path) > maxSocketPath {
		return nil, &cli.Error{
			Object: path, Cause: fmt.Sprintf("a socket's path has at most %d characters, and this one has %d", maxSocketPath, len(path)),
			Next: "choose a shorter state directory: --dir DIRECTORY", Code: cli.ExitUsage,
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The directory is closed to others before as well.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "status", statusOf(node, iface))
	})
	mux.HandleFunc("GET "+pingPath, func(w http.ResponseWriter, r *http.Request) {
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
	serveMembers(mux, node)
	s := &controlServer{
		http: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(ln) // ends with Close
	}()
	return s, nil
}

// Close ends what is being answered and removes the socket.
func (s *controlServer) Close() {
	s.http.Close()
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

func answerError(w http.ResponseWriter, err error) {
	var e *cli.Error
	if !errors.As(err, &e) {
		if e = explain(err); e == nil {
			e = &cli.Error{Object: "the agent", Cause: err.Error()}
		}
	}
	var doc errorAnswer
	doc.Error.Object, doc.Error.Cause, doc.Error.Next, doc.Error.ExitCode = e.Object, e.Cause, e.Next, e.ExitCode()
	b, err := cli.AppendDocument(nil, "error", doc)
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
type agentClient struct{ http *http.Client }

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
	return &agentClient{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}, nil
}

// get asks for path and decodes the document into v. It returns the document
// too.
func (a *agentClient) get(ctx context.Context, path string, v any) error {
	return a.do(ctx, http.MethodGet, path, nil, v)
}

func (a *agentClient) do(ctx context.Context, method, path string, body io.Reader, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	res, err := a.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &cli.Error{Object: "the agent", Cause: "it does not answer: " + err.Error(), Next: "see whether it still runs: grid status", Err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		var doc errorAnswer
		if json.Unmarshal(b, &doc) != nil || doc.Error.Object == "" {
			return &cli.Error{Object: "the agent", Cause: "it answers " + res.Status, Next: "compare its version: grid version"}
		}
		e := doc.Error
		return &cli.Error{Object: e.Object, Cause: e.Cause, Next: e.Next, Code: e.ExitCode}
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return &cli.Error{Object: "the agent", Cause: "its answer makes no sense: " + err.Error(), Next: "restart it, so that it has the version of this program: grid up"}
	}
	return nil
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
