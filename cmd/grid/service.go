package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/hostdns"
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
	// systemDNS is where a resolver is that all programs use: at the one port
	// that /etc/resolv.conf knows, of an address that nobody else has.
	systemDNS = "127.90.0.53:53"
)

// A serviceSpec says what a service does.
type serviceSpec struct {
	Kind         string   `json:"kind"`
	Listen       string   `json:"listen,omitempty"`        // HOST:PORT on this computer; of expose: the port of the node
	To           string   `json:"to,omitempty"`            // forward: NAME:PORT; expose: HOST:PORT or unix:PATH on this computer
	UDP          bool     `json:"udp,omitempty"`           // forward, expose: packets instead of connections
	Name         string   `json:"name,omitempty"`          // expose: of the service, for members that look for it; empty: none
	AllowOutside bool     `json:"allow_outside,omitempty"` // proxy
	Upstream     []string `json:"upstream,omitempty"`      // dns; nil: those of this computer
	GridOnly     bool     `json:"grid_only,omitempty"`     // dns: refuse other names
	System       bool     `json:"system,omitempty"`        // dns: for all programs of this computer
}

// A serviceHost is where services run: a node, and the computer around it. Its
// methods may be called concurrently.
type serviceHost struct {
	node    *overlay.Node
	changes hostdns.Changes // of this computer; nil: none may be made
	link    string          // network interface of the grid, set before services open; empty: none

	mu      sync.Mutex // guards what follows
	running []*service // in the order opened
	system  bool       // one of them is the resolver of all programs
}

// A service is one that is open, or runs.
type service struct {
	spec    serviceSpec
	listen  string // where it really listens
	system  string // how all programs of this computer are led to it; empty: they are not
	counts  any    // *forward.Counters, *socks.Counters or *resolver.Counters
	serve   func(ctx context.Context) error
	closers []func() // called last to first
	once    sync.Once
}

// onClose has f called when the service ends, or never runs.
func (s *service) onClose(f func()) { s.closers = append(s.closers, f) }

// run serves until ctx ends.
func (s *service) run(ctx context.Context) error {
	defer s.close()
	return s.serve(ctx)
}

// close ends a service that does not run. It may be called twice.
func (s *service) close() {
	s.once.Do(func() {
		for _, f := range slices.Backward(s.closers) {
			f()
		}
	})
}

// open binds what a service listens on.
func (h *serviceHost) open(ctx context.Context, spec serviceSpec, log *slog.Logger) (*service, error) {
	log = log.With("service", spec.Kind)
	s := &service{spec: spec}
	var err error
	switch spec.Kind {
	case kindForward:
		err = h.openForward(ctx, s, log.With("to", spec.To))
	case kindExpose:
		err = h.openExpose(s, log.With("to", spec.To))
	case kindProxy:
		err = h.openProxy(ctx, s, log)
	case kindDNS:
		err = h.openDNS(ctx, s, log)
	default:
		err = &cli.Error{Object: "service " + spec.Kind, Cause: "the agent does not know it", Next: "restart the agent, so that it has the version of this program: grid up", Code: cli.ExitUsage}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	h.mu.Lock()
	h.running = append(h.running, s)
	h.mu.Unlock()
	s.onClose(func() {
		h.mu.Lock()
		h.running = slices.DeleteFunc(h.running, func(x *service) bool { return x == s })
		h.mu.Unlock()
	})
	return s, nil
}

func (s serviceSpec) network() string {
	if s.UDP {
		return "udp"
	}
	return "tcp"
}

func (h *serviceHost) openForward(ctx context.Context, s *service, log *slog.Logger) error {
	var lc net.ListenConfig
	spec := s.spec
	if spec.UDP {
		pc, err := lc.ListenPacket(ctx, "udp", spec.Listen)
		if err != nil {
			return listenError(spec.Listen, err)
		}
		s.passPackets(pc, log, func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			return h.node.DialContext(ctx, "udp", spec.To)
		})
		s.listen = pc.LocalAddr().String()
		return nil
	}
	ln, err := lc.Listen(ctx, "tcp", spec.Listen)
	if err != nil {
		return listenError(spec.Listen, err)
	}
	s.passStreams(ln, log, func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return h.node.DialAccepted(ctx, "tcp", spec.To)
	})
	s.listen = ln.Addr().String()
	return nil
}

func (h *serviceHost) openExpose(s *service, log *slog.Logger) error {
	var d net.Dialer
	spec := s.spec
	s.listen = spec.Listen
	if spec.UDP {
		pc, err := h.node.ListenPacket("udp", spec.Listen)
		if err != nil {
			return listenError("port "+spec.Listen, err)
		}
		s.passPackets(pc, log, func(ctx context.Context, _ net.Addr) (net.Conn, error) {
			return d.DialContext(ctx, "udp", spec.To)
		})
	} else {
		ln, err := h.node.Listen("tcp", spec.Listen)
		if err != nil {
			return listenError("port "+spec.Listen, err)
		}
		network, to := localNetwork(spec.To)
		s.passStreams(ln, log, func(ctx context.Context, _ net.Conn) (net.Conn, error) {
			return d.DialContext(ctx, network, to)
		})
	}
	return h.offer(s)
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

// offer has members find an exposed port by the service's name.
func (h *serviceHost) offer(s *service) error {
	number, err := strconv.ParseUint(strings.TrimPrefix(s.listen, ":"), 10, 16)
	name := s.spec.Name
	if name == "" {
		name = usualNames[uint16(number)]
	}
	if err != nil || name == "" {
		return err
	}
	withdraw, err := h.node.Offer(overlay.Offer{Name: name, Network: s.spec.network(), Port: uint16(number)})
	if err != nil {
		return cli.Usagef(name, "grid expose 8080 --name http", "members cannot find this service: %v", err)
	}
	s.onClose(withdraw)
	return nil
}

// usualNames are services that are found by name without having been given one.
var usualNames = map[uint16]string{21: "ftp", 22: "ssh", 25: "smtp", 53: "domain", 80: "http", 143: "imap", 443: "https", 445: "microsoft-ds", 631: "ipp", 2049: "nfs", 3306: "mysql", 5432: "postgresql", 5900: "rfb"}

// passStreams makes s join connections to ln with those that dial makes.
func (s *service) passStreams(ln net.Listener, log *slog.Logger, dial func(context.Context, net.Conn) (net.Conn, error)) {
	f := &forward.Streams{Listener: ln, Logger: log, Dial: dial}
	s.serve, s.counts = f.Serve, &f.Counters
	s.onClose(func() { ln.Close() })
}

// passPackets makes s pass packets on between pc and the sockets of dial.
func (s *service) passPackets(pc net.PacketConn, log *slog.Logger, dial func(context.Context, net.Addr) (net.Conn, error)) {
	p := &forward.Packets{Conn: pc, Logger: log, Dial: dial}
	s.serve, s.counts = p.Serve, &p.Counters
	s.onClose(func() { pc.Close() })
}

func (h *serviceHost) openProxy(ctx context.Context, s *service, log *slog.Logger) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.spec.Listen)
	if err != nil {
		return listenError(s.spec.Listen, err)
	}
	s.onClose(func() { ln.Close() })
	cfg := socks.Config{Grid: h.node, Logger: log}
	if s.spec.AllowOutside {
		cfg.Outside = new(net.Dialer).DialContext
	}
	server := socks.NewServer(cfg)
	s.listen, s.counts = ln.Addr().String(), &server.Counters
	s.serve = func(ctx context.Context) error { return server.Serve(ctx, ln) }
	return nil
}

func (h *serviceHost) openDNS(ctx context.Context, s *service, log *slog.Logger) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.spec.Listen)
	if err != nil {
		return listenError(s.spec.Listen, err)
	}
	s.onClose(func() { ln.Close() })
	s.listen = ln.Addr().String() // of the same port, when that was zero
	pc, err := lc.ListenPacket(ctx, "udp", s.listen)
	if err != nil {
		return listenError(s.listen, err)
	}
	s.onClose(func() { pc.Close() })
	own := ln.Addr().(*net.TCPAddr).AddrPort()
	upstream := s.spec.upstream(own)
	server := resolver.NewServer(resolver.Config{Grid: h.node, Upstream: upstream, Logger: log})
	s.counts = &server.Counters
	s.serve = func(ctx context.Context) error { return server.Serve(ctx, pc, ln) }
	if !s.spec.System {
		return nil
	}
	return h.installDNS(s, own, upstream, log)
}

// installDNS leads all programs of this computer to the resolver, until the
// service ends.
func (h *serviceHost) installDNS(s *service, own netip.AddrPort, upstream []string, log *slog.Logger) error {
	if h.changes == nil {
		panic("main: a service that changes this computer, without a journal")
	}
	if len(upstream) == 0 && !hostdns.Resolved() {
		return &cli.Error{
			Object: hostdns.File, Cause: "it names no resolver, so that this computer would find nothing outside the grid",
			Next: "name one: services.dns_upstream in the configuration (grid config example)", Code: cli.ExitUsage,
		}
	}
	h.mu.Lock()
	taken := h.system
	h.system = true
	h.mu.Unlock()
	if taken {
		return &cli.Error{Object: "the resolver of this computer", Cause: "the agent is it already", Next: "see where: grid status"}
	}
	s.onClose(func() {
		h.mu.Lock()
		h.system = false
		h.mu.Unlock()
	})
	installed, err := hostdns.Install(hostdns.Config{Resolver: own, Domain: "grid", Changes: h.changes, Link: h.link})
	if err != nil {
		return err
	}
	s.system = installed.String()
	s.onClose(func() {
		if err := installed.Undo(); err != nil {
			log.Error("the resolver of this computer is not what it was before; grid down tries again", "err", err)
		}
	})
	log.Info("resolver of this computer", "does", s.text())
	return nil
}

// upstream returns the resolvers for other names: those that were named, else
// those of this computer, without the one at own.
func (s serviceSpec) upstream(own netip.AddrPort) (list []string) {
	if s.GridOnly {
		return nil
	}
	if len(s.Upstream) == 0 {
		return hostdns.Upstream(own)
	}
	for _, a := range s.Upstream {
		list = append(list, withPort(a, "53"))
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

// parseExpose decodes PORT or PORT=HOST:PORT, with /udp behind it for packets and
// NAME@ before it for the name of the service.
func parseExpose(text string) (serviceSpec, error) {
	const next = "grid up --expose 8080=127.0.0.1:80"
	name, rest, named := strings.Cut(text, "@")
	if !named {
		name, rest = "", text
	} else if name == "" {
		return serviceSpec{}, cli.Usagef(text, next, "there is no name before the @")
	}
	rest, udp := strings.CutSuffix(rest, "/udp")
	port, to, found := strings.Cut(rest, "=")
	if !found {
		to = port
	}
	return exposeSpec(name, port, to, udp, next)
}

func exposeSpec(name, port, to string, udp bool, next string) (serviceSpec, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return serviceSpec{}, cli.Usagef(port, next, "this is not a port from 1 to 65535")
	}
	spec := serviceSpec{Kind: kindExpose, Listen: ":" + port, UDP: udp, Name: name}
	if name != "" {
		if err := (overlay.Offer{Name: name, Network: spec.network(), Port: uint16(number)}).Check(); err != nil {
			return serviceSpec{}, cli.Usagef(name, next, "the name of a service has 1 to 15 small letters, digits and hyphens, one of them a letter")
		}
	}
	if spec.To, err = parseLocal(to, next); err != nil {
		return serviceSpec{}, err
	}
	return spec, nil
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
	if s.system != "" {
		return "DNS at " + s.listen + ", for all programs by " + s.system
	}
	return "DNS at " + s.listen
}
