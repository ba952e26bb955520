package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/forward"
	"github.com/instantgrid/instantgrid/overlay/resolver"
	"github.com/instantgrid/instantgrid/overlay/socks"
)

// What programs that embed nothing of ours use: each is a service of a node, run
// by the agent (grid up) or by a command of its own.

const (
	kindForward = "forward"
	kindExpose  = "expose"
	kindProxy   = "proxy"
	kindDNS     = "dns"

	defaultProxy = "127.0.0.1:1080"
	defaultDNS   = "127.0.0.1:5300"
	resolvFile   = "/etc/resolv.conf"
)

// A serviceSpec says what a service does.
type serviceSpec struct {
	Kind         string   `json:"kind"`
	Listen       string   `json:"listen,omitempty"`        // HOST:PORT on this computer; of expose: the port of the node
	To           string   `json:"to,omitempty"`            // forward: NAME:PORT; expose: HOST:PORT or unix:PATH on this computer
	UDP          bool     `json:"udp,omitempty"`           // forward, expose: packets instead of connections
	AllowOutside bool     `json:"allow_outside,omitempty"` // proxy
	Upstream     []string `json:"upstream,omitempty"`      // dns; nil: those of this computer
	GridOnly     bool     `json:"grid_only,omitempty"`     // dns: refuse other names
}

// A service is one that runs.
type service struct {
	spec   serviceSpec
	listen string // where it really listens
	run    func(ctx context.Context) error
	close  func() // instead of run
}

// open binds what the service listens on.
func (s serviceSpec) open(ctx context.Context, node *overlay.Node, log *slog.Logger) (*service, error) {
	log = log.With("service", s.Kind)
	switch s.Kind {
	case kindForward:
		return s.openForward(ctx, node, log)
	case kindExpose:
		return s.openExpose(node, log)
	case kindProxy:
		return s.openProxy(ctx, node, log)
	case kindDNS:
		return s.openDNS(ctx, node, log)
	}
	return nil, &cli.Error{Object: "service " + s.Kind, Cause: "the agent does not know it", Next: "restart the agent, so that it has the version of this program: grid up", Code: cli.ExitUsage}
}

func (s serviceSpec) network() string {
	if s.UDP {
		return "udp"
	}
	return "tcp"
}

func (s serviceSpec) openForward(ctx context.Context, node *overlay.Node, log *slog.Logger) (*service, error) {
	var lc net.ListenConfig
	log = log.With("to", s.To)
	if s.UDP {
		pc, err := lc.ListenPacket(ctx, "udp", s.Listen)
		if err != nil {
			return nil, listenError(s.Listen, err)
		}
		p := &forward.Packets{Conn: pc, Logger: log, Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			return node.DialContext(ctx, "udp", s.To)
		}}
		return &service{s, pc.LocalAddr().String(), p.Serve, func() { pc.Close() }}, nil
	}
	ln, err := lc.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return nil, listenError(s.Listen, err)
	}
	f := &forward.Streams{Listener: ln, Logger: log, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return node.DialAccepted(ctx, "tcp", s.To)
	}}
	return &service{s, ln.Addr().String(), f.Serve, func() { ln.Close() }}, nil
}

func (s serviceSpec) openExpose(node *overlay.Node, log *slog.Logger) (*service, error) {
	var d net.Dialer
	log = log.With("to", s.To)
	if s.UDP {
		pc, err := node.ListenPacket("udp", s.Listen)
		if err != nil {
			return nil, listenError("port "+s.Listen, err)
		}
		p := &forward.Packets{Conn: pc, Logger: log, Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			return d.DialContext(ctx, "udp", s.To)
		}}
		return &service{s, s.Listen, p.Serve, func() { pc.Close() }}, nil
	}
	ln, err := node.Listen("tcp", s.Listen)
	if err != nil {
		return nil, listenError("port "+s.Listen, err)
	}
	network, to := localNetwork(s.To)
	f := &forward.Streams{Listener: ln, Logger: log, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return d.DialContext(ctx, network, to)
	}}
	return &service{s, s.Listen, f.Serve, func() { ln.Close() }}, nil
}

// socketPrefix begins the path of a Unix socket in place of HOST:PORT.
const socketPrefix = "unix:"

// localNetwork returns how to dial what a service of this computer is at.
func localNetwork(to string) (network, address string) {
	if path, ok := strings.CutPrefix(to, socketPrefix); ok {
		return "unix", path
	}
	return "tcp", to
}

func (s serviceSpec) openProxy(ctx context.Context, node *overlay.Node, log *slog.Logger) (*service, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return nil, listenError(s.Listen, err)
	}
	cfg := socks.Config{Grid: node, Logger: log}
	if s.AllowOutside {
		cfg.Outside = new(net.Dialer).DialContext
	}
	server := socks.NewServer(cfg)
	run := func(ctx context.Context) error { return server.Serve(ctx, ln) }
	return &service{s, ln.Addr().String(), run, func() { ln.Close() }}, nil
}

func (s serviceSpec) openDNS(ctx context.Context, node *overlay.Node, log *slog.Logger) (*service, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return nil, listenError(s.Listen, err)
	}
	at := ln.Addr().String() // of the same port, when that was zero
	pc, err := lc.ListenPacket(ctx, "udp", at)
	if err != nil {
		ln.Close()
		return nil, listenError(at, err)
	}
	server := resolver.NewServer(resolver.Config{Grid: node, Upstream: s.upstream(at), Logger: log})
	run := func(ctx context.Context) error { return server.Serve(ctx, pc, ln) }
	return &service{s, at, run, func() { ln.Close(); pc.Close() }}, nil
}

// upstream returns the resolvers for other names: those that were named, else
// those of this computer, without the one at own.
func (s serviceSpec) upstream(own string) (list []string) {
	if s.GridOnly {
		return nil
	}
	if len(s.Upstream) > 0 {
		for _, a := range s.Upstream {
			list = append(list, withPort(a, "53"))
		}
		return list
	}
	cfg, err := dns.ClientConfigFromFile(resolvFile)
	if err != nil {
		return nil // another system: other names are refused
	}
	for _, server := range cfg.Servers {
		if a := net.JoinHostPort(server, cfg.Port); a != own {
			list = append(list, a)
		}
	}
	return list
}

// withPort adds a port to an address that has none.
func withPort(address, port string) string {
	if _, err := netip.ParseAddr(address); err == nil {
		return net.JoinHostPort(address, port)
	}
	return address
}

// listenError explains why something cannot be listened on.
func listenError(where string, err error) error {
	e := &overlay.LinkError{Name: where, Err: err}
	next := "choose another port"
	if errors.Is(err, os.ErrPermission) {
		next = e.Next()
	}
	return &cli.Error{Object: where, Cause: e.Cause(), Next: next, Err: err}
}

// parseLocal decodes PORT or HOST:PORT on this computer; a port alone is one of
// loopback.
func parseLocal(text, next string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = "", text
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", cli.Usagef(text, next, "this is neither PORT nor HOST:PORT")
	}
	return net.JoinHostPort(host, port), nil
}

// parseRemote checks NAME:PORT or PEERID:PORT.
func parseRemote(text, next string) (host string, err error) {
	host, port, found := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 10, 16)
	if !found || host == "" || err != nil || number == 0 {
		return "", cli.Usagef(text, next, "this is not NAME:PORT")
	}
	return host, nil
}

// parseForward decodes LOCAL=NAME:PORT, with /udp behind it for packets.
func parseForward(text string) (serviceSpec, error) {
	const next = "grid up --forward 8080=NAME:80"
	rest, udp := strings.CutSuffix(text, "/udp")
	local, to, found := strings.Cut(rest, "=")
	if !found {
		return serviceSpec{}, cli.Usagef(text, next, "this is not LOCALPORT=NAME:PORT")
	}
	listen, err := parseLocal(local, next)
	if err != nil {
		return serviceSpec{}, err
	}
	if _, err := parseRemote(to, next); err != nil {
		return serviceSpec{}, err
	}
	return serviceSpec{Kind: kindForward, Listen: listen, To: to, UDP: udp}, nil
}

// parseExpose decodes PORT or PORT=HOST:PORT, with /udp behind it for packets.
func parseExpose(text string) (serviceSpec, error) {
	const next = "grid up --expose 8080=127.0.0.1:80"
	rest, udp := strings.CutSuffix(text, "/udp")
	port, to, found := strings.Cut(rest, "=")
	if !found {
		to = port
	}
	return exposeSpec(port, to, udp, next)
}

func exposeSpec(port, to string, udp bool, next string) (serviceSpec, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return serviceSpec{}, cli.Usagef(port, next, "this is not a port from 1 to 65535")
	}
	if to, err = parseLocal(to, next); err != nil {
		return serviceSpec{}, err
	}
	return serviceSpec{Kind: kindExpose, Listen: ":" + port, To: to, UDP: udp}, nil
}

// text says what a running service does.
func (s *service) text() string {
	switch s.spec.Kind {
	case kindForward:
		return fmt.Sprintf("%s/%s leads to %s", s.listen, s.spec.network(), s.spec.To)
	case kindExpose:
		return fmt.Sprintf("port %s/%s of this node leads to %s", strings.TrimPrefix(s.listen, ":"), s.spec.network(), s.spec.To)
	case kindProxy:
		return "SOCKS5 at " + s.listen
	}
	return "DNS at " + s.listen
}
