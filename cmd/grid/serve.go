package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// serviceDocument is "instantgrid/forward/1" and so on, printed once a service
// listens.
type serviceDocument struct {
	Listen string `json:"listen"`
	To     string `json:"to,omitempty"`
	UDP    bool   `json:"udp,omitempty"`
	Agent  bool   `json:"agent"` // the agent runs it, in its name
	Next   string `json:"next"`
}

// serve runs a service until it is interrupted: in the agent if there is one,
// else with a node of its own. Next returns the command to try.
func (o *options) serve(cmd *cobra.Command, spec serviceSpec, next func(listen string) string) error {
	return o.runService(cmd, spec, func(r serviceReady) error {
		doc := serviceDocument{Listen: r.listen, To: spec.To, UDP: spec.UDP, Agent: r.agent, Next: next(r.listen)}
		if cli.JSON(cmd) {
			return cli.PrintJSON(cmd, spec.Kind, doc)
		}
		if _, err := cmd.OutOrStdout().Write([]byte(r.does + "\n")); err != nil {
			return err
		}
		cli.Note(cmd, "next: %s", doc.Next)
		return nil
	})
}

// A serviceReady is a service that listens.
type serviceReady struct {
	listen, does string
	agent        bool // the agent runs it
	// openTo returns the members that the policy lets connect to a port.
	openTo func(ctx context.Context, port uint16) ([]string, error)
}

// runService is serve with another announcement.
func (o *options) runService(cmd *cobra.Command, spec serviceSpec, ready func(serviceReady) error) error {
	ctx := cmd.Context()
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	agent, err := findAgent(dir)
	if err == nil {
		return o.runInAgent(cmd, agent, spec, ready)
	}
	if !errors.Is(err, errNoAgent) {
		return err
	}
	return o.withNode(cmd, dir, nodeUse{}, func(node *overlay.Node) error {
		if host, err := remoteOf(spec); err != nil {
			return err
		} else if host != "" {
			if _, err := node.Resolve(ctx, host); err != nil {
				return err
			}
		}
		logging := defaultLog()
		log := logging.newLogger(cmd, slog.LevelInfo)
		host := &serviceHost{node: node}
		if spec.System {
			changes, err := openJournal(dir, log)
			if err != nil {
				return err
			}
			defer closeJournal(changes, log)
			host.changes = journaled{changes}
		}
		s, err := host.open(ctx, spec, log)
		if err != nil {
			return err
		}
		openTo := func(_ context.Context, port uint16) ([]string, error) { return openTo(node, port), nil }
		if err := ready(serviceReady{s.listen, s.text(), false, openTo}); err != nil {
			s.close()
			return err
		}
		return s.run(ctx)
	})
}

// runInAgent has the agent run a service until the command is interrupted.
func (o *options) runInAgent(cmd *cobra.Command, agent *agentClient, spec serviceSpec, ready func(serviceReady) error) error {
	ctx := cmd.Context()
	if host, err := remoteOf(spec); err != nil {
		return err
	} else if host != "" {
		if _, err := agent.resolve(ctx, host); err != nil {
			return err
		}
	}
	err := agent.service(ctx, spec, func(e serviceEvent) error {
		switch e.Event {
		case "ready":
			return ready(serviceReady{e.Listen, e.Does, true, agent.openTo})
		case "ended":
			return &cli.Error{Object: spec.Kind, Cause: e.Text, Next: "run it again"}
		}
		cli.Note(cmd, "%s", e.Text)
		return nil
	})
	if ctx.Err() != nil {
		return nil // an interrupt is its usual end
	}
	return err
}

// remoteOf returns the name that a service leads to, empty if it is none.
func remoteOf(spec serviceSpec) (string, error) {
	if spec.Kind != kindForward {
		return "", nil
	}
	return parseRemote(spec.To, "grid forward LOCALPORT NAME:PORT")
}

// completePeers completes the argument at a place with peers.
func (o *options) completePeers(at int) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) != at {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.livePeers(cmd.Context()), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

func forwardCommand(o *options) *cobra.Command {
	var udp bool
	cmd := &cobra.Command{
		Use:   "forward LOCALPORT NAME:PORT",
		Short: "Lead a local port to a port of a member",
		Long: `Listen on a port of this computer, on loopback unless HOST:PORT says otherwise,
and lead each connection to the port of a peer: a member's name, or a peer ID.
The peer's policy must open the port. With --udp it leads packets, with answers,
of up to 1500 bytes.

The agent does it if it runs, otherwise this command itself; both until the
command is interrupted. grid up --forward makes it last.`,
		Example: `grid forward 8080 alice:80
# Then, on this computer: curl http://127.0.0.1:8080/
grid forward 9000 alice:9000 --udp`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completePeers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			const usage = "grid forward LOCALPORT NAME:PORT"
			listen, err := parseLocal(args[0], usage)
			if err != nil {
				return err
			}
			if _, err := parseRemote(args[1], usage); err != nil {
				return err
			}
			spec := serviceSpec{Kind: kindForward, Listen: listen, To: args[1], UDP: udp}
			return o.serve(cmd, spec, func(listen string) string { return "connect a program to " + listen })
		},
	}
	cmd.Flags().BoolVar(&udp, "udp", false, "lead packets (UDP) instead of connections (TCP)")
	return cmd
}

func exposeCommand(o *options) *cobra.Command {
	var udp bool
	var to, name string
	cmd := &cobra.Command{
		Use:   "expose PORT",
		Short: "Offer a local port to members",
		Long: `Listen on a port of this node and lead each connection to a port of this
computer, the same one on loopback unless --to says otherwise. Who may connect is
decided by the file policy.yaml in the state directory: without a rule that opens
the port, no member may. With --udp it leads packets, of up to 1500 bytes.

Members find the port by the service's name, --name or else that of a usual port,
as an SRV record of grid dns: _http._tcp.NAME.GRID.grid.

The agent does it if it runs, otherwise this command itself; both until the
command is interrupted. grid up --expose makes it last.`,
		Example: `grid expose 8080
grid expose 80 --to 127.0.0.1:8080
grid expose 7000 --name chess`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := to
			if target == "" {
				target = args[0]
			}
			spec, err := exposeSpec(name, args[0], target, udp, "grid expose PORT --to 127.0.0.1:PORT")
			if err != nil {
				return err
			}
			return o.serve(cmd, spec, func(string) string {
				return "open port " + args[0] + " in policy.yaml here (docs/membership.md); then, on a member: grid forward 8080 NAME:" + args[0]
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`HOST:PORT` on this computer (default the same port on 127.0.0.1)")
	cmd.Flags().StringVar(&name, "name", "", "`SERVICE` that members find it by, such as http (default that of a usual port)")
	cmd.Flags().BoolVar(&udp, "udp", false, "offer packets (UDP) instead of connections (TCP)")
	return cmd
}

func proxyCommand(o *options) *cobra.Command {
	var listen string
	var outside bool
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Run a SOCKS5 proxy into the grid",
		Long: `Run a SOCKS5 proxy: programs that know SOCKS reach members by name, with
connections and with packets (UDP ASSOCIATE). The proxy resolves the names, so
have the program leave that to it: socks5h:// in a URL, --socks5-hostname of curl.

Whatever is outside the grid is refused, unless --allow-outside has the proxy
connect there from this computer. There is no password: whoever reaches the
listener uses the grid in this node's name. Keep it on loopback.`,
		Example: `grid proxy
# Then: curl --socks5-hostname 127.0.0.1:1080 http://alice.lab.grid/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := parseLocal(listen, "grid proxy --listen "+defaultProxy)
			if err != nil {
				return err
			}
			spec := serviceSpec{Kind: kindProxy, Listen: at, AllowOutside: outside}
			return o.serve(cmd, spec, func(listen string) string {
				return "curl --socks5-hostname " + listen + " http://NAME/"
			})
		},
	}
	cmd.Flags().StringVar(&listen, "listen", defaultProxy, "`HOST:PORT` to listen on; a port alone is one of loopback")
	cmd.Flags().BoolVar(&outside, "allow-outside", false, "connect to addresses outside the grid, too, from this computer")
	return cmd
}

func dnsCommand(o *options) *cobra.Command {
	var listen string
	var upstream []string
	var gridOnly, system bool
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Run a DNS resolver for .grid",
		Long: `Answer DNS questions for the names of the grid: A and AAAA (addresses), TXT (peer
ID and roles), SRV (_ssh._tcp.NAME.GRID.grid) and PTR. Other names are asked for
at the resolvers of this computer, or at those of --upstream, or refused with
--grid-only. On an address that is not loopback, others get answers for the
grid's names alone, and only so many a second.

With --system all programs of this computer ask it (Linux, as root): by a setting
of systemd-resolved for the interface of grid up --tun, or as the resolver in
/etc/resolv.conf, then at ` + systemDNS + `. That is undone when the command ends; if it
was killed, by the next grid up, or by grid down. grid up --dns-system makes it
last.

The addresses lead somewhere where grid up --tun runs; the proxy and grid forward
take the names as they are. To have another resolver of this computer ask for
.grid here instead:

  dnsmasq  server=/grid/127.0.0.1#5300
  macOS    /etc/resolver/grid: nameserver 127.0.0.1, port 5300`,
		Example: `grid dns
# Then: dig @127.0.0.1 -p 5300 alice.lab.grid
grid dns --listen 127.0.0.1:5400 --upstream 192.0.2.53`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if system && !cmd.Flags().Changed("listen") {
				listen = systemDNS
			}
			at, err := parseLocal(listen, "grid dns --listen "+defaultDNS)
			if err != nil {
				return err
			}
			spec := serviceSpec{Kind: kindDNS, Listen: at, Upstream: upstream, GridOnly: gridOnly, System: system}
			return o.serve(cmd, spec, digLine)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", defaultDNS, "`HOST:PORT` to listen on, UDP and TCP; a port alone is one of loopback")
	cmd.Flags().StringSliceVar(&upstream, "upstream", nil, "`ADDRESS` of a resolver for other names; may be repeated (default those of this computer)")
	cmd.Flags().BoolVar(&gridOnly, "grid-only", false, "refuse names outside the grid")
	cmd.Flags().BoolVar(&system, "system", false, "have all programs of this computer ask it (root)")
	return cmd
}

// digLine is a question to try a resolver with.
func digLine(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "dig @" + listen + " NAME.GRID.grid"
	}
	return "dig @" + host + " -p " + port + " NAME.GRID.grid"
}
