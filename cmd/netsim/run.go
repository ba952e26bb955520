package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
)

func newRun() *cobra.Command {
	var from, to, capture string
	var seed uint64
	var bytes int64
	cmd := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run one network and have two of its hosts exchange bytes",
		Long: `SCENARIO is a file (docs/netsim.md) or the name of a built-in one. A rendezvous
runs on the host named "rendezvous"; the first two other hosts, or those named
by --from and --to, run nodes, of which the first sends random bytes to the
second. Events are printed as they happen, with --json as JSON lines; the last
document is the result.`,
		Example: `netsim run two-homes-port-restricted
netsim run symmetric-pair --json
netsim run lossy-wifi --bytes 10000000 --seed 7
netsim run cgn-both --pcap cgn.pcapng`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return netsim.Scenarios(), cobra.ShellCompDirectiveDefault
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the host that sends")
	flags.StringVar(&to, "to", "", "the host that receives")
	flags.Uint64Var(&seed, "seed", 0, "seed instead of the scenario's; 0: the scenario's")
	flags.Int64Var(&bytes, "bytes", 1<<20, "bytes to send")
	flags.StringVar(&capture, "pcap", "", "write every step of every packet to this file (pcapng, simulator only)")
	name := backendFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := parseBackend(cmd, *name)
		if err != nil {
			return err
		}
		sc, err := loadScenario(args[0])
		if err != nil {
			return err
		}
		if bytes < 0 {
			return cli.Usagef(fmt.Sprintf("--bytes %d", bytes), cmd.CommandPath()+" --help", "it is negative")
		}
		if capture != "" && b != sim {
			return cli.Usagef("--pcap "+capture, cmd.CommandPath()+" --backend sim", "the kernel's packets are for tcpdump to capture")
		}
		if seed != 0 {
			sc.Seed = seed
		}
		if from, to, err = sendersOf(sc, from, to); err != nil {
			return err
		}
		return runScenario(cmd, b, transfer{Scenario: sc, Rendezvous: rendezvousHost, From: from, To: to, Bytes: bytes, Events: true, Capture: capture})
	}
	return cmd
}

// A runDocument is "instantgrid/run/1", the result of netsim run.
type runDocument struct {
	Scenario        string     `json:"scenario"`
	Backend         backend    `json:"backend"`
	Seed            uint64     `json:"seed"`
	From            string     `json:"from"`
	To              string     `json:"to"`
	Bytes           int64      `json:"bytes"`
	Completed       bool       `json:"completed"`
	SHA256          string     `json:"sha256"`
	FirstByteMS     cli.Number `json:"first_byte_ms"`
	FirstByteAtPeer cli.Number `json:"first_byte_at_peer_ms"`
	DirectMS        cli.Number `json:"direct_ms"` // null: never
	DoneMS          cli.Number `json:"done_ms"`
	Path            string     `json:"path"`
	Reason          string     `json:"reason"`
	Advice          string     `json:"advice,omitempty"`
	PeerPath        string     `json:"peer_path"`
	PeerReason      string     `json:"peer_reason"`
	Packets         packets    `json:"packets"` // in the simulator
	Failure         string     `json:"failure,omitempty"`
}

// packets counts those of all hosts.
type packets struct {
	Sent      uint64   `json:"sent"`
	Delivered uint64   `json:"delivered"`
	Dropped   uint64   `json:"dropped"`
	Drops     []string `json:"drops,omitempty"`
}

func runDocumentOf(b backend, x transfer, o outcome) runDocument {
	return runDocument{
		Scenario:        x.Scenario.Name,
		Backend:         b,
		Seed:            x.Scenario.Seed,
		From:            x.From,
		To:              x.To,
		Bytes:           o.Bytes,
		Completed:       o.Intact,
		SHA256:          o.SHA256,
		FirstByteMS:     orNull(o.FirstByte),
		FirstByteAtPeer: orNull(o.FirstAtPeer),
		DirectMS:        orNull(o.Direct),
		DoneMS:          orNull(o.Done),
		Path:            o.Path,
		Reason:          o.Reason,
		Advice:          o.Advice,
		PeerPath:        o.PeerPath,
		PeerReason:      o.PeerReason,
		Packets:         packets{o.Packets.Sent, o.Packets.Delivered, o.Packets.Dropped, o.Drops},
		Failure:         o.Failure,
	}
}

// orNull converts to milliseconds; what never happened becomes null.
func orNull(d time.Duration) cli.Number {
	if d == 0 {
		return cli.Number(math.NaN())
	}
	return inMS(d)
}

func runScenario(cmd *cobra.Command, b backend, x transfer) error {
	report := func(e event) {
		if cli.JSON(cmd) {
			cli.PrintJSONLine(cmd, "event", e)
		} else {
			fmt.Fprintln(cmd.OutOrStdout(), e.line())
		}
	}
	run := runInSim
	if b == namespaces {
		run = runInKernel
	}
	o := run(cmd.Context(), x, report)
	var err error
	if d := runDocumentOf(b, x, o); cli.JSON(cmd) {
		err = cli.PrintJSON(cmd, "run", d)
	} else {
		err = o.write(cmd.OutOrStdout(), x)
	}
	switch {
	case err != nil:
		return err
	case cmd.Context().Err() != nil:
		return interrupted(cmd)
	case o.Failure != "":
		return &cli.Error{
			Object: "scenario " + x.Scenario.Name,
			Cause:  firstLine(o.Failure),
			Next:   "see every event: netsim run " + x.Scenario.Name + " --json",
		}
	}
	return nil
}

// line prints an event for people.
func (e event) line() string {
	words := []string{fmt.Sprintf("%9.1f ms  %-12s %-16s", float64(e.At)/float64(time.Millisecond), e.Host, e.Kind)}
	for _, w := range []string{e.Path, e.Remote, e.State, e.Reason, e.Detail} {
		if w != "" {
			words = append(words, w)
		}
	}
	return strings.TrimRight(strings.Join(words, " "), " ")
}

// write prints the summary.
func (o outcome) write(out io.Writer, x transfer) error {
	since := func(d time.Duration) string {
		if d == 0 {
			return "never"
		}
		return milliseconds(d)
	}
	path := o.Path
	if o.Reason != "" {
		path += ": " + o.Reason
	}
	if o.Advice != "" {
		path += " (" + o.Advice + ")"
	}
	_, err := fmt.Fprintf(out, `
%s to %s, counted from the dial
  first byte  %s written, %s at %s
  direct      %s
  complete    %s, %d bytes
  path        %s
  sha256      %s
`, x.From, x.To, since(o.FirstByte), since(o.FirstAtPeer), x.To, since(o.Direct), since(o.Done), o.Bytes, path, o.SHA256)
	if err == nil && o.Packets.Sent > 0 {
		_, err = fmt.Fprintf(out, "  packets     %d sent, %d delivered, %d dropped\n", o.Packets.Sent, o.Packets.Delivered, o.Packets.Dropped)
	}
	for _, d := range o.Drops {
		if err == nil {
			_, err = fmt.Fprintf(out, "              %s\n", d)
		}
	}
	return err
}
