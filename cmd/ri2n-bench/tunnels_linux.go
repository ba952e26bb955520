package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A tunnelRow is what one way between the two hosts carried, the median of the
// rounds.
type tunnelRow struct {
	Way         string     `json:"way"`
	Goodput     cli.Number `json:"goodput_bps"`
	GoodputLow  cli.Number `json:"goodput_low_bps"` // of the worst round, and High of the best
	GoodputHigh cli.Number `json:"goodput_high_bps"`
	CPUPerGB    cli.Number `json:"cpu_per_gb"` // of the whole machine, kernel included
	CPULow      cli.Number `json:"cpu_low_per_gb"`
	CPUHigh     cli.Number `json:"cpu_high_per_gb"`
	Rounds      int        `json:"rounds"`
	Error       string     `json:"error,omitempty"`

	goodputs, cpus []float64
}

type tunnelDocument struct {
	Rows  []tunnelRow `json:"rows"`
	Goals []goal      `json:"goals"`
}

// A tunnelPlan is what the tunnels command was asked for.
type tunnelPlan struct {
	rounds  int
	seconds int
	mtu     int
	program string // this one
	folder  string // of grid and rendezvous
}

func newTunnels() *cobra.Command {
	var p tunnelPlan
	cmd := &cobra.Command{
		Use:   "tunnels",
		Short: "Measure TCP through all that grid offers programs, and through wireguard-go",
		Long: `tunnels measures with iperf3 what one TCP connection carries between two network
namespaces (root): over the bare veth pair, through a tunnel of wireguard-go,
through the interface of grid up --tun, over IPv4 and IPv6, and to an exposed port
through a forwarded one, through SOCKS5 (a small relay speaks it for iperf3) and
through the pipe of grid connect; beside them one stream of ri2n. They take turns.
The programs grid and rendezvous must be beside this one. The CPU time is
that of the whole machine, kernel and iperf3 included, so nothing else should run.`,
		Example: "sudo ri2n-bench tunnels --rounds 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.rounds < 1 || p.rounds > 100 || p.seconds < 1 || p.seconds > 600 {
				return cli.Usagef("--rounds, --seconds", cmd.CommandPath()+" --help", "must be from 1 to 100 and from 1 to 600")
			}
			if err := kernel.Check(); err != nil {
				return &cli.Error{Object: "tunnels", Cause: err.Error(), Next: "run it as root", Code: cli.ExitFailed, Err: err}
			}
			var err error
			if p.program, err = os.Executable(); err != nil {
				return err
			}
			p.folder = filepath.Dir(p.program)
			for _, name := range []string{filepath.Join(p.folder, "grid"), filepath.Join(p.folder, "rendezvous"), "iperf3"} {
				if _, err := exec.LookPath(name); err != nil {
					return &cli.Error{Object: name, Cause: "this program is not there", Next: "make build; apt-get install iperf3", Err: err}
				}
			}
			return p.run(cmd)
		},
	}
	cmd.Flags().IntVar(&p.rounds, "rounds", 3, "how often each is measured, in turns")
	cmd.Flags().IntVar(&p.seconds, "seconds", 4, "length of a transfer")
	cmd.Flags().IntVar(&p.mtu, "mtu", 1280, "MTU of grid's interface")
	return cmd
}

// A tunnelWay is one way to be measured.
type tunnelWay struct {
	name string
	pair *kernel.Pair
	// measure makes one transfer and returns its bits per second and bytes.
	measure func(ctx context.Context) (bps, bytes float64, err error)
}

func (p *tunnelPlan) run(cmd *cobra.Command) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	dir, err := os.MkdirTemp("", "ri2n-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Each in namespaces of its own: grid would else find its way through the
	// tunnel of the other.
	var ways []tunnelWay
	for _, set := range []func(ctx context.Context, pair *kernel.Pair, dir string) ([]tunnelWay, error){p.bare, p.stream, p.wireguard, p.grid} {
		pair, err := kernel.StartPair(1, netsim.Link{})
		if err != nil {
			return err
		}
		defer pair.Close()
		more, err := set(ctx, pair, dir)
		if err != nil {
			return err
		}
		ways = append(ways, more...)
	}
	defer cancel() // programs end before their namespaces do
	rows := make([]tunnelRow, len(ways))
	for range p.rounds {
		for i, w := range ways {
			r := &rows[i]
			r.Way = w.name
			before := machineCPU()
			bps, bytes, err := w.measure(ctx)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.Error = err.Error()
				continue
			}
			r.goodputs = append(r.goodputs, bps)
			r.cpus = append(r.cpus, (machineCPU()-before)/(bytes/1e9))
		}
	}
	d := tunnelDocument{Rows: rows}
	for i := range d.Rows {
		r := &d.Rows[i]
		r.Rounds = len(r.goodputs)
		r.Goodput, r.CPUPerGB = middle(r.goodputs), middle(r.cpus)
		r.GoodputLow, r.GoodputHigh = cli.Number(quantile(r.goodputs, 0)), cli.Number(quantile(r.goodputs, 1))
		r.CPULow, r.CPUHigh = cli.Number(quantile(r.cpus, 0)), cli.Number(quantile(r.cpus, 1))
	}
	d.goals()
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "bench", d)
	}
	return d.write(cmd.OutOrStdout())
}

func (d *tunnelDocument) goals() {
	of := make(map[string]float64)
	for _, r := range d.Rows {
		of[r.Way] = float64(r.Goodput)
	}
	for _, way := range []string{"grid IPv4", "grid IPv6"} {
		ratio := of[way] / of["wireguard-go"]
		d.Goals = append(d.Goals, goal{Scenario: "tunnels", Figure: way + " / wireguard-go", AtLeast: 1, Value: cli.Number(ratio), Met: ratio >= 1})
	}
}

func (d tunnelDocument) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "way\tGbit/s\tfrom\tto\tCPU-s/GB\tfrom\tto\t")
	for _, r := range d.Rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Way, show(r.Goodput/1e9, 2), show(r.GoodputLow/1e9, 2), show(r.GoodputHigh/1e9, 2),
			show(r.CPUPerGB, 2), show(r.CPULow, 2), show(r.CPUHigh, 2), r.Error)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, g := range d.Goals {
		if _, err := fmt.Fprintf(w, "%s: %s, at least %s\n", g.Figure, show(g.Value, 2), show(g.AtLeast, 2)); err != nil {
			return err
		}
	}
	return nil
}

// machineCPU returns the CPU time that this machine has used, in seconds.
func machineCPU() float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	used := 0.0
	for i, field := range strings.Fields(line) {
		// user, nice, system, irq, softirq (proc_stat(5)), in 1/100 s
		if i == 1 || i == 2 || i == 3 || i == 6 || i == 7 {
			n, _ := strconv.ParseFloat(field, 64)
			used += n / 100
		}
	}
	return used
}

// bare is the veth pair itself.
func (p *tunnelPlan) bare(ctx context.Context, pair *kernel.Pair, _ string) ([]tunnelWay, error) {
	return p.iperf(ctx, pair, "kernel TCP", pair.Addr(1, 0))
}

// iperf serves iperf3 on host b.
func (p *tunnelPlan) iperf(ctx context.Context, pair *kernel.Pair, name string, to netip.Addr) ([]tunnelWay, error) {
	if err := pair.Host(1).Command(ctx, "iperf3", "-s").Start(); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond)
	return []tunnelWay{{name, pair, p.transfer(pair, netip.AddrPortFrom(to, iperfPort))}}, nil
}

// iperfPort is where iperf3 listens.
const iperfPort = 5201

// transfer measures with iperf3.
func (p *tunnelPlan) transfer(pair *kernel.Pair, to netip.AddrPort) func(context.Context) (float64, float64, error) {
	return func(ctx context.Context) (bps, bytes float64, err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(p.seconds+20)*time.Second)
		defer cancel()
		out, err := pair.Host(0).Command(ctx, "iperf3", "-J", "-c", to.Addr().String(), "-p", strconv.Itoa(int(to.Port())), "-t", strconv.Itoa(p.seconds)).Output()
		var doc struct {
			Error string `json:"error"`
			End   struct {
				Received struct {
					Bytes float64 `json:"bytes"`
					BPS   float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if jsonErr := json.Unmarshal(out, &doc); err == nil {
			err = jsonErr
		}
		if doc.Error != "" {
			err = errors.New(doc.Error)
		}
		return doc.End.Received.BPS, doc.End.Received.Bytes, err
	}
}

// stream is one stream of ri2n.
func (p *tunnelPlan) stream(ctx context.Context, pair *kernel.Pair, _ string) ([]tunnelWay, error) {
	at := netip.AddrPortFrom(pair.Addr(1, 0), 7000).String()
	_, to, err := startPeer(ctx, p.program, pair.Host(1), -1, job{Contender: "ri2n", Address: at, Sessions: 1000})
	if err != nil {
		return nil, err
	}
	return []tunnelWay{{"ri2n stream", pair, func(ctx context.Context) (float64, float64, error) {
		j := job{Contender: "ri2n", Address: to.address, Peer: to.peer, Measure: measuresBulk, Seconds: float64(p.seconds)}
		m, err := measureWith(ctx, p.program, pair.Host(0), -1, j, time.Duration(p.seconds+20)*time.Second)
		if err != nil {
			return 0, 0, err
		}
		return m.Bulk.BitsPerSecond, m.Bulk.BitsPerSecond / 8 * float64(p.seconds), nil
	}}}, nil
}

// wireguard is a pair of wireguard-go.
func (p *tunnelPlan) wireguard(ctx context.Context, pair *kernel.Pair, _ string) ([]tunnelWay, error) {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	for i := range keys {
		c := pair.Host(i).Command(ctx, p.program, "wireguard", "--key", hex.EncodeToString(keys[i].Bytes()),
			"--peer", hex.EncodeToString(keys[1-i].PublicKey().Bytes()), "--endpoint", pair.Addr(1-i, 0).String()+":51820",
			"--address", fmt.Sprintf("10.98.0.%d/24", i+1), "--network", "10.98.0.0/24")
		if _, err := firstLine(c); err != nil {
			return nil, fmt.Errorf("wireguard: %w", err)
		}
	}
	return p.iperf(ctx, pair, "wireguard-go", netip.MustParseAddr("10.98.0.2"))
}

// grid is a grid of two members, with the rendezvous on host a.
func (p *tunnelPlan) grid(ctx context.Context, pair *kernel.Pair, dir string) ([]tunnelWay, error) {
	// A network that both are in, as on a LAN: private addresses elsewhere are
	// not tried.
	const public = "10.97.0.1"
	for host := range 2 {
		if err := pair.Host(host).Do(func() error {
			link, err := netlink.LinkByName(kernel.PairDevice(0))
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(fmt.Sprintf("10.97.0.%d/24", host+1))
			if err != nil {
				return err
			}
			return netlink.AddrAdd(link, a)
		}); err != nil {
			return nil, err
		}
	}
	line, err := firstLine(pair.Host(0).Command(ctx, filepath.Join(p.folder, "rendezvous"), "--json", "--admit", "key", "--dir", filepath.Join(dir, "rendezvous"),
		"--listen", public+":3478", "--stun-listen", public+":3479", "--metrics-listen", "", "--public-host", public))
	if err != nil {
		return nil, fmt.Errorf("rendezvous: %w", err)
	}
	var server struct{ Address, Claim string }
	if err := json.Unmarshal([]byte(line), &server); err != nil {
		return nil, err
	}
	grid := func(host int, args ...string) *kernel.Cmd {
		state := filepath.Join(dir, string(rune('a'+host)))
		return pair.Host(host).Command(ctx, filepath.Join(p.folder, "grid"), append([]string{"--dir", state}, args...)...)
	}
	if err := grid(0, "--rendezvous", server.Address, "init", "bench", "--claim", server.Claim, "--name", "a").Run(); err != nil {
		return nil, fmt.Errorf("grid init: %w", err)
	}
	token, err := grid(0, "invite").Output()
	if err != nil {
		return nil, fmt.Errorf("grid invite: %w", err)
	}
	if err := grid(1, "join", "--name", "b", strings.TrimSpace(string(token))).Run(); err != nil {
		return nil, fmt.Errorf("grid join: %w", err)
	}
	services := [2][]string{{"--forward", "5301=b:5201", "--proxy", "1080"}, {"--expose", "5201"}}
	for host := range 2 {
		policy := filepath.Join(dir, string(rune('a'+host)), "policy.yaml")
		if err := os.WriteFile(policy, []byte("rules:\n  - names: [\"*\"]\n    ports: [all]\n"), 0o600); err != nil {
			return nil, err
		}
		if _, err := firstLine(grid(host, append([]string{"up", "--tun", "--json", "--tun-mtu", strconv.Itoa(p.mtu)}, services[host]...)...)); err != nil {
			return nil, fmt.Errorf("grid up: %w", err)
		}
	}
	out, err := grid(1, "status", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("grid status: %w", err)
	}
	var status struct {
		Interface struct{ Address, Address6 netip.Addr }
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return nil, err
	}
	ways, err := p.iperf(ctx, pair, "grid IPv4", status.Interface.Address)
	if err != nil {
		return nil, err
	}
	// A direct path of full size takes a moment.
	if err := grid(0, "ping", "--until-direct", "b").Run(); err != nil {
		return nil, fmt.Errorf("grid ping: %w", err)
	}
	time.Sleep(2 * time.Second)
	ways = append(ways, tunnelWay{"grid IPv6", pair, p.transfer(pair, netip.AddrPortFrom(status.Interface.Address6, iperfPort))})
	here := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) }
	ways = append(ways, tunnelWay{"grid forward", pair, p.transfer(pair, here(5301))})
	connect := grid(0, "connect", "b:5201")
	for _, relay := range []struct {
		way  string
		args []string
	}{
		{"grid proxy (SOCKS5)", []string{"--socks", "127.0.0.1:1080", "--to", "b.bench.grid:5201"}},
		{"grid connect", append([]string{"--"}, connect.Args...)},
	} {
		line, err := firstLine(pair.Host(0).Command(ctx, p.program, append([]string{"relay"}, relay.args...)...))
		if err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		at, err := netip.ParseAddrPort(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		ways = append(ways, tunnelWay{relay.way, pair, p.transfer(pair, at)})
	}
	return ways, nil
}

// firstLine starts a program that goes on and returns its first line.
func firstLine(c *kernel.Cmd) (string, error) {
	var said strings.Builder
	c.Stderr = &said
	c.WaitDelay = time.Second
	out, err := c.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.Process.Kill()
		c.Wait()
		return "", fmt.Errorf("it ended: %s", said.String())
	}
	return line, nil
}
