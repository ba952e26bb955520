package main

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/gridapi/rpc/gateway"
	"github.com/instantgrid/instantgrid/overlay"
)

// httpSettings say where programs of this computer call functions over HTTP,
// besides the control socket (docs/rpc.md).
type httpSettings struct {
	listen string
	port   uint16

	web net.Listener // nil: none
}

func defaultHTTP() *httpSettings { return &httpSettings{port: functionPort} }

// tokenFile holds what programs show at the HTTP listener.
const tokenFile = "http.token"

func (h *httpSettings) section() config.Section {
	return config.Section{
		Name: "http",
		Doc:  "Calls of functions over HTTP, for programs in any language on this computer (docs/rpc.md). They work on the control socket, too.",
		Keys: []config.Key{
			{
				Name: "listen", Value: &h.listen,
				Doc:  "PORT or HOST:PORT of loopback. Callers need the token in the file " + tokenFile + " in the state directory. Empty: the control socket only.",
				Flag: "http", Usage: "take calls of functions over HTTP at this `PORT` of loopback (default off)",
				Check: func() error { return checkLoopback(h.listen) },
			},
			{
				Name: "worker_port", Value: &h.port,
				Doc:   "The port that members' workers listen on.",
				Check: func() error { return inRange(int(h.port), 1, 65535) },
			},
		},
	}
}

func checkLoopback(text string) error {
	if text == "" {
		return nil
	}
	at, err := parseLocal(text, "grid up --http 7080")
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
		return fmt.Errorf("%q is not loopback: calls are made in this node's name", text)
	}
	return nil
}

// configure opens the socket, so that a port that is taken is known early.
func (h *httpSettings) configure(a *agent, _ *overlay.Config) error {
	if h.listen == "" || a == nil {
		return nil
	}
	at, err := parseLocal(h.listen, "grid up --http 7080")
	if err != nil {
		return err
	}
	if h.web, err = net.Listen("tcp", at); err != nil {
		return listenError(at, err)
	}
	a.onClose(func() { h.web.Close() })
	return nil
}

// functionStatus is what the agent has to do with functions.
type functionStatus struct {
	HTTP   *gateway.Counters   `json:"http,omitempty"`   // calls of programs of this computer
	Worker *rpc.WorkerCounters `json:"worker,omitempty"` // calls of members, of the worker in the settings
}

// functions returns the part of a status, which it makes.
func (s *agentStatus) functions() *functionStatus {
	if s.Functions == nil {
		s.Functions = new(functionStatus)
	}
	return s.Functions
}

func (h *httpSettings) apply(a *agent) error {
	finder := &workerFinder{reach: nodeReach(a.dir, a.node), port: h.port}
	calls := &sharedCaller{open: func(ctx context.Context) (*rpc.Client, error) {
		return finder.newCaller(ctx, rpc.ClientConfig{Logger: a.log})
	}}
	a.onClose(calls.close)
	g := gateway.New(gateway.Config{Client: calls.take, Explain: explainPlainly, Logger: a.log})
	for _, pattern := range []string{"POST /v1/functions/{name}", "GET /v1/functions", "GET /v1/workers", "GET /openapi.json"} {
		a.control.handle(pattern, g.ServeHTTP)
	}
	a.control.describe(func(s *agentStatus) {
		if c := g.Counters(); c.Calls > 0 || h.web != nil {
			s.functions().HTTP = &c
		}
	})
	if h.web == nil {
		return nil
	}
	token, err := loadToken(filepath.Join(a.dir, tokenFile))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: gateway.Guard(g, token), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return a.ctx }, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelInfo),
	}
	a.doc.HTTP = "http://" + h.web.Addr().String() + "/"
	a.log.Info("service", "does", "functions over HTTP at "+a.doc.HTTP)
	a.running.Go(func() {
		defer context.AfterFunc(a.ctx, func() { server.Close() })()
		if err := server.Serve(h.web); a.ctx.Err() == nil {
			a.log.Error("service has ended", "service", "HTTP", "err", err)
		}
	})
	return nil
}

// explainPlainly says cause and next step of an error that explains itself.
func explainPlainly(err error) (cause, next string) {
	if e := explain(err); e != nil {
		return e.Object + ": " + e.Cause, e.Next
	}
	return "", ""
}

// loadToken returns the token in a file, which it makes.
func loadToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) >= leastSecret {
		return strings.TrimSpace(string(b)), os.Chmod(path, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var secret [20]byte
	rand.Read(secret[:])
	token := strings.ToLower(base32.StdEncoding.EncodeToString(secret[:]))
	os.Remove(path)
	return token, os.WriteFile(path, []byte(token+"\n"), 0o600)
}

// callerIdle is how long the agent stays connected to workers after the last
// call.
const callerIdle = 5 * time.Minute

// A sharedCaller is a client that is there while it is used, and some time
// longer.
type sharedCaller struct {
	open func(ctx context.Context) (*rpc.Client, error)

	mu     sync.Mutex // guards what follows
	client *rpc.Client
	users  int
	idle   *time.Timer
	closed bool
}

// take implements gateway.Config.Client.
func (s *sharedCaller) take(ctx context.Context) (*rpc.Client, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, rpc.ErrClosed
	}
	if s.client == nil {
		c, err := s.open(ctx)
		if err != nil {
			return nil, nil, err
		}
		s.client = c
	}
	if s.idle != nil {
		s.idle.Stop()
	}
	s.users++
	return s.client, s.release, nil
}

func (s *sharedCaller) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.idle = time.AfterFunc(callerIdle, s.rest)
	}
}

// rest closes the client unless it is used again.
func (s *sharedCaller) rest() {
	s.mu.Lock()
	c := s.client
	if s.users > 0 {
		c = nil
	} else {
		s.client = nil
	}
	s.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// close ends what is under way.
func (s *sharedCaller) close() {
	s.mu.Lock()
	c := s.client
	s.client, s.closed = nil, true
	if s.idle != nil {
		s.idle.Stop()
	}
	s.mu.Unlock()
	if c != nil {
		c.Close()
	}
}
