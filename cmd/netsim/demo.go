package main

import (
	"bufio"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/punch"
)

func newDemo() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Send a file between two homes behind NATs, and show what happens",
		Long: `A rendezvous runs on a public host, and two homes behind NATs are 40 ms of round
trip apart. A file of random bytes goes from one home to the other, first with
NATs that let a direct path through, then with NATs that do not.

As root on Linux this happens in network namespaces, with the programs
rendezvous and grid that lie beside this one; then three computers become a grid,
and a web server in one home is reached from the other by name: through a SOCKS
proxy, a forwarded port, and a network interface. Otherwise it happens in the
simulator. The last line begins with "demo: ok".`,
		Example: `netsim demo
netsim demo --bytes 268435456`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runDemo(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.backend, "backend", "", "sim or kernel; empty: the kernel where that is possible")
	flags.Int64Var(&f.bytes, "bytes", 64<<20, "size of the file")
	flags.Int64Var(&f.relayedBytes, "relayed-bytes", 16<<20, "size of the file that goes through the relay")
	flags.Uint64Var(&f.seed, "seed", 1, "seed of the simulated network")
	return cmd
}

type demoFlags struct {
	backend             string
	bytes, relayedBytes int64
	seed                uint64
}

// relayedRate is that of the homes' links in the relayed part, in bits a second.
const relayedRate = 20_000_000

// A demoPart is one transfer of the demo.
type demoPart struct {
	Title    string
	Scenario netsim.Scenario
	Bytes    int64
	Direct   bool // how it must end
}

func (f demoFlags) parts() ([]demoPart, error) {
	homes, err := netsim.NamedScenario("two-homes-port-restricted")
	if err != nil {
		return nil, err
	}
	symmetric, err := netsim.NamedScenario("symmetric-pair")
	if err != nil {
		return nil, err
	}
	homes.Seed, symmetric.Seed = f.seed, f.seed
	// Why a path is not direct is known when every attempt has failed, some 4 s
	// after the dial. The file takes longer than that on a line of this rate.
	for i := range symmetric.NATs {
		symmetric.NATs[i].Uplink.Rate = relayedRate
	}
	return []demoPart{
		{"two homes; mapping endpoint-independent, filtering address and port-dependent; 20 ms links", homes, f.bytes, true},
		{"two homes; mapping and filtering address and port-dependent; 20 ms links of 20 Mbit/s", symmetric, f.relayedBytes, false},
	}, nil
}

// A demoRow is what one transfer of the demo showed.
type demoRow struct {
	Title           string     `json:"title"`
	Scenario        string     `json:"scenario"`
	Bytes           int64      `json:"bytes"`
	FirstByteMS     cli.Number `json:"first_byte_ms"` // at the receiver, from its dial
	DirectMS        cli.Number `json:"direct_ms"`     // null: never
	Seconds         cli.Number `json:"seconds"`       // from the dial until all had arrived
	MiBPerSecond    cli.Number `json:"mib_per_second"`
	SHA256          string     `json:"sha256"`          // of the file sent
	ReceivedSHA256  string     `json:"received_sha256"` // of the file received
	Path            string     `json:"path"`
	Reason          string     `json:"reason"`
	Advice          string     `json:"advice,omitempty"`
	elapsed         time.Duration
	firstByte, upAt time.Duration
}

// demoDocument is "instantgrid/demo/1".
type demoDocument struct {
	OK      bool        `json:"ok"`
	Backend backend     `json:"backend"`
	Note    string      `json:"note,omitempty"` // why not the kernel
	Rows    []demoRow   `json:"rows"`
	Story   []storyStep `json:"story,omitempty"` // in the kernel only
	Failure string      `json:"failure,omitempty"`
}

// A demoRunner carries one part out: it sends the file dir/source and has it
// received as dir/target. progress may be told how far that is.
type demoRunner func(ctx context.Context, p demoPart, dir string, progress func(done int64, path string)) (demoRow, error)

// Names of the files in the directory of a part.
const (
	source = "file"
	target = "received"
)

func runDemo(cmd *cobra.Command, f demoFlags) error {
	b, note, err := demoBackend(cmd, f.backend, kernel.Check)
	if err != nil {
		return err
	}
	parts, err := f.parts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if p.Bytes < 1 || p.Bytes > 4<<30 {
			return cli.Usagef(fmt.Sprintf("%d bytes", p.Bytes), cmd.CommandPath()+" --help", "a file of the demo has 1 byte to 4 GiB")
		}
	}
	run := demoInSim
	if b == namespaces {
		programs, err := findPrograms()
		if err != nil {
			return err
		}
		run = programs.demo
	}
	dir, err := os.MkdirTemp("", "instantgrid-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	start := time.Now()
	say := func(format string, args ...any) {
		if !cli.JSON(cmd) {
			fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
		}
	}
	d := demoDocument{Backend: b, Note: note, Rows: []demoRow{}}
	switch {
	case b == namespaces:
		say("demo: in network namespaces of this machine, with real sockets and programs")
	case note != "":
		say("demo: in the simulator, in virtual time, since %s", note)
	default:
		say("demo: in the simulator, in virtual time")
	}
	fail := func(err error) error {
		if stopped := interrupted(cmd); stopped != nil {
			err = stopped
		}
		d.Failure = err.Error()
		if cli.JSON(cmd) {
			cli.PrintJSON(cmd, "demo", d)
		}
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	for i, p := range parts {
		row, err := p.run(cmd.Context(), run, filepath.Join(dir, fmt.Sprint(i)), say, line)
		line.Close()
		if err != nil {
			return fail(err)
		}
		d.Rows = append(d.Rows, row)
	}
	if b == namespaces {
		programs, err := findPrograms()
		if err == nil {
			d.Story, err = programs.tellStory(cmd.Context(), filepath.Join(dir, "story"), say)
		}
		if err != nil {
			return fail(err)
		}
	}
	d.OK = true
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "demo", d)
	}
	say("\ndemo: ok (%d files, hashes equal, %.1f s)", len(d.Rows), time.Since(start).Seconds())
	return nil
}

// demoBackend picks the kernel where check finds that possible, else the
// simulator, with a note that says why. A back end that was asked for is not
// replaced.
func demoBackend(cmd *cobra.Command, name string, check func() error) (b backend, note string, err error) {
	if name != "" {
		b, err = parseBackend(cmd, name)
		return b, "", err
	}
	if err := check(); err != nil {
		return sim, err.Error(), nil
	}
	return namespaces, "", nil
}

// run makes a file in dir, sends it, prints what happened, and checks that
// things went as they must.
func (p demoPart) run(ctx context.Context, run demoRunner, dir string, say func(string, ...any), line *progressLine) (demoRow, error) {
	fail := func(object, next, format string, args ...any) error {
		return &cli.Error{Object: "demo, " + object, Cause: fmt.Sprintf(format, args...), Next: next}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return demoRow{}, err
	}
	sum, err := makeFile(filepath.Join(dir, source), p.Bytes)
	if err != nil {
		return demoRow{}, err
	}
	say("\n%s", p.Title)
	say("  file        %.1f MiB of random bytes", float64(p.Bytes)/(1<<20))
	line.Set("  sending ...")
	row, err := run(ctx, p, dir, func(done int64, path string) {
		line.Set("  sending ... %.1f MiB, %s", float64(done)/(1<<20), path)
	})
	line.Close()
	if err != nil {
		return row, err
	}
	row.Title, row.Scenario, row.Bytes, row.SHA256 = p.Title, p.Scenario.Name, p.Bytes, sum
	row.FirstByteMS, row.DirectMS = orNull(row.firstByte), orNull(row.upAt)
	row.Seconds = cli.Number(row.elapsed.Round(time.Millisecond).Seconds())
	row.MiBPerSecond = cli.Number(float64(int64(float64(p.Bytes)/(1<<20)/row.elapsed.Seconds()*10)) / 10)
	if row.ReceivedSHA256, err = sumOf(filepath.Join(dir, target)); err != nil {
		return row, err
	}
	say("  first byte  %s after the dial", milliseconds(row.firstByte))
	if row.upAt > 0 {
		say("  direct      %s after the dial", milliseconds(row.upAt))
	} else {
		say("  direct      never: %s (%s)", row.Reason, row.Advice)
	}
	say("  rate        %.1f MiB/s (%.2f s)", float64(row.MiBPerSecond), float64(row.Seconds))
	say("  sent        sha256 %s", row.SHA256)
	say("  received    sha256 %s", row.ReceivedSHA256)
	again := "run it again, and then alone: netsim run " + p.Scenario.Name
	switch {
	case row.SHA256 != row.ReceivedSHA256:
		return row, &cli.Error{Object: "demo, the received file", Cause: "its SHA-256 differs from that of the file sent", Next: again, Code: cli.ExitIntegrity}
	case p.Direct && row.Path != "direct":
		return row, fail("path", again, "it stayed %q (%s) and must be direct", row.Path, row.Reason)
	case !p.Direct && row.Path == "direct":
		return row, fail("path", again, "it became direct, and no such path can be")
	case !p.Direct && (row.Reason == "" || row.Reason == string(punch.Connecting)):
		return row, fail("path", again, "it is relayed, and the reason %q does not say why", row.Reason)
	}
	return row, nil
}

// makeFile writes random bytes and returns their SHA-256.
func makeFile(name string, size int64) (sum string, err error) {
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = io.CopyN(io.MultiWriter(w, h), cryptorand.Reader, size)
	if err == nil {
		err = w.Flush()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return hexSum(h), err
}

// sumOf returns the SHA-256 of a file.
func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hexSum(h), nil
}

// demoInSim carries a part out in the simulator.
func demoInSim(ctx context.Context, p demoPart, dir string, _ func(int64, string)) (demoRow, error) {
	from, to, err := sendersOf(p.Scenario, "", "")
	if err != nil {
		return demoRow{}, err
	}
	o := runInSim(ctx, transfer{
		Scenario:   p.Scenario,
		Rendezvous: rendezvousHost,
		From:       from,
		To:         to,
		Source:     filepath.Join(dir, source),
		Target:     filepath.Join(dir, target),
	}, nil)
	if o.Failure != "" {
		return demoRow{}, &cli.Error{
			Object: "demo, " + p.Scenario.Name,
			Cause:  firstLine(o.Failure),
			Next:   "look at it alone: netsim run " + p.Scenario.Name,
		}
	}
	return demoRow{
		firstByte: o.FirstAtPeer,
		upAt:      o.Direct,
		elapsed:   o.Done,
		Path:      o.Path,
		Reason:    o.Reason,
		Advice:    o.Advice,
	}, nil
}
