package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/punch/portmap"
)

// netcheckDocument is "instantgrid/netcheck/1".
type netcheckDocument struct {
	Networks []networkReport `json:"networks"` // one for each address family that has servers
	Sentence string          `json:"sentence"` // of the first network that lets UDP through
}

// A networkReport is what was found out about one address family.
type networkReport struct {
	Family       string              `json:"family"` // ipv4 or ipv6
	Local        netip.AddrPort      `json:"local,omitzero"`
	Behavior     punch.Behavior      `json:"behavior"`
	Observations []punch.Observation `json:"observations"`
	punch.Survey
	Router       netip.Addr   `json:"router,omitzero"`         // that was asked for a port
	PortMapping  []offerOfMap `json:"port_mapping,omitempty"`  // what it says by each protocol
	RouterErrors uint64       `json:"router_errors,omitempty"` // answers that made no sense or came from elsewhere
	Sentence     string       `json:"sentence"`
	Advice       string       `json:"advice"` // what to change in the router
}

// An offerOfMap is what the router says by one protocol that maps ports.
type offerOfMap struct {
	Protocol portmap.Protocol `json:"protocol"`
	Offered  bool             `json:"offered"`
	Outside  netip.Addr       `json:"outside,omitzero"`
	Problem  string           `json:"problem,omitempty"` // why it is of no use
}

func netcheckCommand(o *options) *cobra.Command {
	var stun []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Tell with whom this network connects directly",
		Long: `Measure the NAT or firewall between this computer and the Internet, in the words
of RFC 4787, and say with whom this network connects directly, and what to change
in the router.

The servers asked are the two STUN ports of the rendezvous and those named with
--stun. What they cannot tell is printed as unknown: mapping needs two ports or
addresses, filtering a server with two addresses. No agent needs to run.

Behind a NAT the default router is asked by PCP, NAT-PMP and UPnP-IGD whether it
maps ports. No mapping is made.`,
		Example: `grid netcheck --stun stun.example.org:3478
grid netcheck --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			servers, err := o.stunServers(cmd.Context(), stun)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			doc := netcheck(ctx, servers)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if cli.JSON(cmd) {
				if err := cli.PrintJSON(cmd, "netcheck", doc); err != nil {
					return err
				}
			} else if err := printNetcheck(cmd, doc); err != nil {
				return err
			}
			if !slices.ContainsFunc(doc.Networks, func(n networkReport) bool { return n.Behavior.UDPBlocked != punch.Yes }) {
				return &cli.Error{
					Object: "STUN servers " + joinAddresses(servers),
					Cause:  "none of them answered: UDP is blocked on the way, or they are down",
					Next:   "ask a server known to work: grid netcheck --stun HOST:PORT",
					Code:   cli.ExitUnreachable,
				}
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&stun, "stun", nil, "`HOST:PORT` of another STUN server; may be repeated")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "longest wait for answers")
	return cmd
}

// stunServers resolves the servers to ask: the rendezvous' port and the one
// after it, which answers too, and those of --stun.
func (o *options) stunServers(ctx context.Context, extra []string) ([]netip.AddrPort, error) {
	dir := o.dir
	if dir == "" {
		// Without a home directory there is no file to read, and that is all.
		dir, _ = defaultDir()
	}
	home, err := o.findRendezvous(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	if !home.IsZero() {
		names = append(names, home.HostPort())
		if home.Port < 65535 {
			names = append(names, net.JoinHostPort(home.Host, strconv.Itoa(int(home.Port)+1)))
		}
	}
	names = append(names, extra...)
	if len(names) == 0 {
		return nil, &cli.Error{
			Object: "netcheck",
			Cause:  "it has no server to ask, since no rendezvous is configured and none is named",
			Next:   "grid netcheck --stun HOST:PORT, or grid netcheck --rendezvous HOST:PORT#PEERID",
			Code:   cli.ExitUsage,
		}
	}
	var servers []netip.AddrPort
	for _, name := range names {
		found, err := resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			if !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		}
	}
	return servers, nil
}

// resolve looks up HOST:PORT: at most one address of each family.
func resolve(ctx context.Context, name string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(name)
	if err != nil {
		return nil, cli.Usagef(name, "write it as HOST:PORT", "this is not HOST:PORT")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, cli.Usagef(name, "write it as HOST:PORT", "the port is not a number from 1 to 65535")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &cli.Error{
			Object: host, Cause: "its name cannot be resolved: " + err.Error(),
			Next: "check the name and this computer's DNS, or use an IP address", Code: cli.ExitUnreachable, Err: err,
		}
	}
	var list []netip.AddrPort
	for _, want4 := range []bool{true, false} {
		for _, a := range addresses {
			if a = a.Unmap(); a.Is4() == want4 {
				list = append(list, netip.AddrPortFrom(a, uint16(port)))
				break
			}
		}
	}
	return list, nil
}

// netcheck measures each address family for which there are servers.
func netcheck(ctx context.Context, servers []netip.AddrPort) netcheckDocument {
	doc := netcheckDocument{Networks: []networkReport{}}
	for _, family := range []string{"ipv4", "ipv6"} {
		var of []netip.AddrPort
		for _, s := range servers {
			if s.Addr().Is4() == (family == "ipv4") {
				of = append(of, s)
			}
		}
		if len(of) == 0 {
			continue
		}
		r := measure(ctx, family, of)
		if doc.Sentence == "" || doc.Networks[0].Behavior.UDPBlocked == punch.Yes && r.Behavior.UDPBlocked != punch.Yes {
			doc.Sentence = r.Sentence
		}
		doc.Networks = append(doc.Networks, r)
	}
	return doc
}

func measure(ctx context.Context, family string, servers []netip.AddrPort) networkReport {
	r := networkReport{Family: family, Observations: []punch.Observation{}}
	r.Behavior, r.Local, r.Observations = discover(ctx, family, servers)
	r.Sentence, r.Advice = r.Behavior.Sentence(), r.Behavior.Advice()
	for _, o := range r.Observations {
		if o.Mapped.IsValid() {
			r.Survey = punch.MakeSurvey(ctx, func() (net.PacketConn, error) { return net.ListenPacket(udpOf(family), ":0") }, o.Server)
			break
		}
	}
	if r.Behavior.Translated == punch.Yes && family == "ipv4" {
		r.askRouter(ctx)
	}
	return r
}

// askRouter asks the default router whether it maps ports, and makes no mapping.
func (r *networkReport) askRouter(ctx context.Context) {
	gateway, from := punch.Router(r.Local.Addr())
	if !gateway.IsValid() {
		return
	}
	r.Router = gateway
	offers, counted := portmap.Look(ctx, portmap.Config{
		Route: func() (netip.Addr, netip.AddrPort) { return gateway, netip.AddrPortFrom(from, r.Local.Port()) },
	})
	r.RouterErrors = counted.Malformed + counted.Strangers
	for _, o := range offers {
		m := offerOfMap{Protocol: o.Protocol, Offered: o.Err == nil, Outside: o.Outside}
		if o.Err == nil && o.Outside.IsValid() && !r.seenAt(o.Outside) {
			m.Offered, o.Err = false, errors.New("servers see this network at another address: the router is behind another NAT")
		}
		if o.Err != nil {
			m.Problem = strings.TrimPrefix(o.Err.Error(), "portmap: ")
		}
		r.PortMapping = append(r.PortMapping, m)
	}
	if names := r.mappers(); len(names) > 0 {
		r.Advice = "Nothing to change: the router maps ports on request (" + strings.Join(names, ", ") + "), and a node asks it for one, so that others reach this computer directly."
	}
}

// seenAt reports whether a server has seen us at the address.
func (r *networkReport) seenAt(a netip.Addr) bool {
	return slices.ContainsFunc(r.Observations, func(o punch.Observation) bool { return o.Mapped.Addr() == a })
}

// mappers names the protocols by which the router maps ports.
func (r *networkReport) mappers() (names []string) {
	for _, m := range r.PortMapping {
		if m.Offered {
			names = append(names, string(m.Protocol))
		}
	}
	return names
}

// mappingText says what the router offers.
func (r *networkReport) mappingText() string {
	switch names := r.mappers(); {
	case r.Behavior.Translated == punch.No:
		return "not needed"
	case !r.Router.IsValid():
		return "unknown"
	case len(names) > 0:
		return fmt.Sprintf("%s, by %v", strings.Join(names, ", "), r.Router)
	}
	for _, m := range r.PortMapping {
		if m.Outside.IsValid() {
			return fmt.Sprintf("of no use: %s", m.Problem)
		}
	}
	return fmt.Sprintf("not offered by %v", r.Router)
}

// udpOf returns the network of UDP sockets of a family.
func udpOf(family string) string {
	if family == "ipv6" {
		return "udp6"
	}
	return "udp4"
}

// discover asks the servers from a fresh socket, so that nothing sent earlier
// hides a filter. Without a socket or a route UDP counts as blocked.
func discover(ctx context.Context, family string, servers []netip.AddrPort) (punch.Behavior, netip.AddrPort, []punch.Observation) {
	network := udpOf(family)
	blocked := punch.Behavior{UDPBlocked: punch.Yes}
	unanswered := make([]punch.Observation, len(servers))
	for i, s := range servers {
		unanswered[i].Server = s
	}
	source, ok := sourceAddress(servers[0])
	if !ok {
		return blocked, netip.AddrPort{}, unanswered
	}
	pc, err := net.ListenPacket(network, ":0")
	if err != nil {
		return blocked, netip.AddrPort{}, unanswered
	}
	local := netip.AddrPortFrom(source, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	mux, err := punch.NewMux(pc, punch.MuxConfig{})
	if err != nil {
		pc.Close()
		return blocked, local, unanswered
	}
	defer mux.Close()
	behavior, seen := mux.Discover(ctx, []netip.AddrPort{local}, servers)
	return behavior, local, seen
}

// sourceAddress returns the address from which this computer reaches to.
// Connecting a UDP socket asks the routing table and sends nothing.
func sourceAddress(to netip.AddrPort) (netip.Addr, bool) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), true
}

func printNetcheck(cmd *cobra.Command, doc netcheckDocument) error {
	w := cmd.OutOrStdout()
	for _, n := range doc.Networks {
		b := n.Behavior
		fmt.Fprintf(w, "%s\n", map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[n.Family])
		fmt.Fprintf(w, "  UDP              %s\n", map[punch.Finding]string{punch.Yes: "blocked", punch.No: "works", punch.NotMeasured: "unknown"}[b.UDPBlocked])
		fmt.Fprintf(w, "  local address    %v\n", orUnknown(n.Local))
		fmt.Fprintf(w, "  NAT              %s\n", b.Translated)
		fmt.Fprintf(w, "  mapping          %s\n", b.Mapping)
		fmt.Fprintf(w, "  filtering        %s\n", b.Filtering)
		fmt.Fprintf(w, "  port preserving  %s\n", b.PortPreserving)
		fmt.Fprintf(w, "  new ports        %s\n", portsText(n.Ports))
		fmt.Fprintf(w, "  hairpinning      %s\n", n.Hairpinning)
		fmt.Fprintf(w, "  port mapping     %s\n", n.mappingText())
		for _, o := range n.Observations {
			if o.Mapped.IsValid() {
				fmt.Fprintf(w, "  seen by          %v as %v\n", o.Server, o.Mapped)
			} else {
				fmt.Fprintf(w, "  no answer from   %v\n", o.Server)
			}
		}
	}
	if len(doc.Networks) > 1 {
		for _, n := range doc.Networks[1:] {
			fmt.Fprintf(w, "%s: %s %s\n", n.Family, n.Sentence, n.Advice)
		}
	}
	for _, n := range doc.Networks {
		if n.Sentence == doc.Sentence {
			fmt.Fprintln(w, n.Advice)
			break
		}
	}
	_, err := fmt.Fprintln(w, doc.Sentence)
	return err
}

// portsText says how outside ports are picked.
func portsText(p punch.Ports) string {
	switch {
	case p.Allocation == punch.AllocationSequential:
		return fmt.Sprintf("one after the other, %+d", p.Delta)
	case p.Allocation == punch.AllocationRandom && (p.Low > 1024 || p.High < 65535):
		return fmt.Sprintf("random, from %d to %d", p.Low, p.High)
	}
	return p.Allocation.String()
}

func orUnknown(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}
