package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay/forward"
)

// The agent runs services for other commands: POST /v1/services with a
// serviceSpec is answered with JSON lines, "instantgrid/service/1", the first one
// once the service listens, and lasts as long as its command holds the connection.
// POST /v1/connect?to=NAME:PORT turns the connection to the socket into one to
// that port.

const (
	servicesPath = "/v1/services"
	connectPath  = "/v1/connect"

	// upgradeTo names what follows the answer to a connect.
	upgradeTo = "grid-stream"
	// maxServices bounds the services that commands have the agent run.
	maxServices = 64
	// maxSpec bounds the document that describes one.
	maxSpec = 64 << 10
	// connectTime bounds the dial of a connect.
	connectTime = 30 * time.Second
)

// serviceEvent is a line of "instantgrid/service/1".
type serviceEvent struct {
	Event  string `json:"event"` // "ready", once; "log"; "ended", if it fails
	Listen string `json:"listen,omitempty"`
	Does   string `json:"does,omitempty"`
	Text   string `json:"text,omitempty"`
}

func serveServices(mux *http.ServeMux, host *serviceHost) {
	places := make(chan struct{}, maxServices)
	mux.HandleFunc("POST "+servicesPath, func(w http.ResponseWriter, r *http.Request) {
		var spec serviceSpec
		b, err := io.ReadAll(io.LimitReader(r.Body, maxSpec))
		if err == nil {
			err = json.Unmarshal(b, &spec)
		}
		if err != nil {
			answerError(w, cli.Usagef("service", "compare the versions: grid version", "the agent does not understand the request: %v", err))
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			answerError(w, &cli.Error{Object: "the agent", Cause: "it runs as many services as it can", Next: "stop one of the grid forward, expose, proxy and dns commands"})
			return
		}
		serveOne(w, r, host, spec)
	})
	mux.HandleFunc("POST "+connectPath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), connectTime)
		defer cancel()
		c, err := host.node.DialAccepted(ctx, "tcp", r.URL.Query().Get("to"))
		if err != nil {
			answerError(w, err)
			return
		}
		local, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			c.Close()
			answerError(w, err)
			return
		}
		if _, err := io.WriteString(local, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n\r\n"); err != nil {
			local.Close()
			c.Close()
			return
		}
		forward.Join(local, c)
	})
}

// serveOne runs one service until its command goes.
func serveOne(w http.ResponseWriter, r *http.Request, host *serviceHost, spec serviceSpec) {
	lines := make(logLines, 64)
	s, err := host.open(r.Context(), spec, slog.New(slog.NewTextHandler(lines, nil)))
	if err != nil {
		answerError(w, err)
		return
	}
	control := http.NewResponseController(w)
	say := func(e serviceEvent) bool {
		b, err := cli.AppendDocument(nil, "service", e)
		if err != nil {
			return false
		}
		if _, err := w.Write(b); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if !say(serviceEvent{Event: "ready", Listen: s.listen, Does: s.text()}) {
		s.close()
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	for {
		select {
		case line := <-lines:
			say(serviceEvent{Event: "log", Text: line})
			continue
		case err := <-ended:
			cancel()
			if err != nil {
				say(serviceEvent{Event: "ended", Text: err.Error()})
			}
		case <-ctx.Done():
			cancel()
			<-ended
		}
		return
	}
}

// logLines hands on what a logger writes, and drops what nobody reads in time.
type logLines chan string

func (l logLines) Write(b []byte) (int, error) {
	select {
	case l <- strings.TrimSpace(string(b)):
	default:
	}
	return len(b), nil
}

// service has the agent run a service until ctx ends. Said is told each event.
func (a *agentClient) service(ctx context.Context, spec serviceSpec, said func(serviceEvent) error) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	res, err := a.send(ctx, http.MethodPost, servicesPath, bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	decoder := json.NewDecoder(res.Body)
	for {
		var e serviceEvent
		if err := decoder.Decode(&e); err != nil {
			return a.lost(ctx, err)
		}
		if err := said(e); err != nil {
			return err
		}
	}
}

// lost explains the end of the connection to the agent, unless we wanted it.
func (a *agentClient) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &cli.Error{Object: "the agent", Cause: "it has ended, and this with it", Next: "start it again: grid up", Err: err}
	}
	return &cli.Error{Object: "the agent", Cause: "it does not answer: " + err.Error(), Next: "see whether it still runs: grid status", Err: err}
}

// connect returns a connection to a port of a peer through the agent.
func (a *agentClient) connect(ctx context.Context, to string) (net.Conn, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := io.WriteString(c, "POST "+connectPath+"?to="+url.QueryEscape(to)+" HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\nContent-Length: 0\r\n\r\n"); err != nil {
		c.Close()
		return nil, a.lost(ctx, err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		c.Close()
		return nil, a.lost(ctx, err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer c.Close()
		return nil, a.failure(ctx, res)
	}
	return &upgraded{c.(*net.UnixConn), r}, nil
}

// An upgraded connection begins with what was read behind the answer.
type upgraded struct {
	*net.UnixConn
	r *bufio.Reader
}

func (u *upgraded) Read(b []byte) (int, error) { return u.r.Read(b) }

// WriteTo is that of the reader: the connection's own would miss what it holds.
func (u *upgraded) WriteTo(w io.Writer) (int64, error) { return u.r.WriteTo(w) }
