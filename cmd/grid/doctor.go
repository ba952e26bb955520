package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
)

// doctorTime bounds all checks together; closing a node takes little more.
const doctorTime = 8 * time.Second

// Results of a check.
const (
	checkOK      = "ok"
	checkWarning = "warning" // it works, but not as well as it could
	checkFailed  = "failed"
	checkSkipped = "skipped" // nothing to check here
)

// A checkResult is one row of "instantgrid/doctor/1".
type checkResult struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"` // of what is neither ok nor skipped
}

// doctorDocument is "instantgrid/doctor/1".
type doctorDocument struct {
	OK       bool          `json:"ok"` // nothing has failed
	Warnings int           `json:"warnings"`
	Failed   int           `json:"failed"`
	Agent    bool          `json:"agent"` // one runs with the state directory
	Dir      string        `json:"dir"`
	Rows     []checkResult `json:"rows"`
}

func doctorCommand(o *options) *cobra.Command {
	c := new(configuration)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what keeps this computer from its grid",
		Long: `Check what the agent needs, and say for each what is wrong and what to type next:
state directory, settings, agent, rendezvous, UDP, membership, clock, permissions,
ports, MTU and what the kernel offers for speed.

It ends within 10 s. It asks the running agent where there is one, and otherwise
connects by itself for a moment, if this computer has a key.

It exits with 1 if a check has failed; warnings are no failure.`,
		Example: "grid doctor\ngrid doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := o.examine(cmd.Context(), c)
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				err = cli.PrintJSON(cmd, "doctor", doc)
			} else {
				err = writeDoctor(cmd.OutOrStdout(), doc)
			}
			if err == nil && !doc.OK {
				first := doc.Rows[slices.IndexFunc(doc.Rows, func(r checkResult) bool { return r.Result == checkFailed })]
				err = &cli.Error{Object: first.Check, Cause: first.Detail, Next: first.Next}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&c.path, "config", "", "`file` of settings (default config.yaml in the state directory, if it is there)")
	return cmd
}

func writeDoctor(w io.Writer, doc doctorDocument) error {
	for _, r := range doc.Rows {
		fmt.Fprintf(w, "%-8s  %-12s  %s\n", r.Result, r.Check, r.Detail)
		if r.Next != "" {
			fmt.Fprintf(w, "                        next: %s\n", r.Next)
		}
	}
	_, err := fmt.Fprintf(w, "%d failed, %d warnings\n", doc.Failed, doc.Warnings)
	return err
}

// An examination is what the checks look at.
type examination struct {
	o        *options
	dir      string
	settings *settings // the defaults where the file is wrong
	settled  error     // what is wrong with the file
	agent    *agentClient
	status   *overlay.Status // nil: neither an agent nor a node of ours answers
	why      error           // why not
}

// examine runs all checks.
func (o *options) examine(ctx context.Context, c *configuration) (doctorDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	dir, err := o.stateDirName()
	if err != nil {
		return doctorDocument{}, err
	}
	x := &examination{o: o, dir: dir}
	if x.settings, x.settled = c.read(dir); x.settled != nil {
		x.settings = newSettings()
	}
	if agent, err := findAgent(dir); err == nil {
		x.agent = agent
	}
	if x.agent != nil {
		s, err := x.agent.status(ctx)
		if x.why = err; err == nil {
			x.status = &s.Status
		}
	} else {
		end := x.startNode(ctx)
		defer end()
	}
	checks := []func(context.Context) []checkResult{
		x.checkState, x.checkSettings, x.checkAgent, x.checkRendezvous, x.checkUDP, x.checkMembership,
		x.checkClock, x.checkPermissions, x.checkPorts, x.checkMTU, x.checkOffloads,
	}
	results := make([][]checkResult, len(checks))
	var running sync.WaitGroup
	for i, check := range checks {
		running.Go(func() { results[i] = check(ctx) })
	}
	running.Wait()
	doc := doctorDocument{Agent: x.agent != nil, Dir: dir, Rows: slices.Concat(results...)}
	for _, r := range doc.Rows {
		switch r.Result {
		case checkWarning:
			doc.Warnings++
		case checkFailed:
			doc.Failed++
		}
	}
	doc.OK = doc.Failed == 0
	return doc, nil
}

// startNode starts a node for the checks if this computer has a key that nobody
// uses now, and waits a moment for its rendezvous. What it returns ends it.
func (x *examination) startNode(ctx context.Context) (end func()) {
	nothing := func() {}
	if _, err := os.Stat(filepath.Join(x.dir, "key")); err != nil {
		x.why = errors.New("this computer has no key yet")
		return nothing
	}
	release, err := takeIdentity(x.dir)
	if err != nil {
		x.why = err
		return nothing
	}
	cfg := overlay.Config{Dir: x.dir}
	if x.why = x.settings.node.configure(nil, &cfg); x.why != nil {
		return release
	}
	cfg.ListenPort = 0 // a socket of its own
	if address, err := x.o.agentRendezvous(x.dir, x.settings); err == nil {
		cfg.Rendezvous = address
	}
	node, err := overlay.Start(ctx, cfg)
	if x.why = err; err != nil {
		return release
	}
	waiting, cancel := context.WithTimeout(ctx, doctorTime/2)
	defer cancel()
	_ = node.Ready(waiting) // the status says what came of it
	s := node.Status()
	x.status = &s
	return func() {
		node.Close()
		release()
	}
}

func one(check, result, next, format string, args ...any) []checkResult {
	if result == checkOK || result == checkSkipped {
		next = ""
	}
	return []checkResult{{Check: check, Result: result, Detail: fmt.Sprintf(format, args...), Next: next}}
}

// failure is a check that has failed with an error that explains itself, or one
// that does not.
func failure(check string, err error, next string) checkResult {
	var e *cli.Error
	if !errors.As(err, &e) {
		e = explain(err)
	}
	if e == nil {
		return checkResult{check, checkFailed, err.Error(), next}
	}
	return checkResult{check, checkFailed, e.Object + ": " + e.Cause, orText(e.Next, next)}
}

func (x *examination) checkState(context.Context) (rows []checkResult) {
	if _, err := os.Stat(x.dir); errors.Is(err, os.ErrNotExist) {
		return one("state", checkWarning, "grid join TOKEN, or grid up", "%s is not there yet", x.dir)
	}
	var cfg overlay.Config
	if x.settings.node.configure(nil, &cfg) != nil {
		cfg = overlay.Config{} // settings are a check of their own
	}
	cfg.Dir = x.dir
	for _, err := range overlay.CheckState(cfg) {
		r := failure("state", err, "ls -l "+x.dir)
		var state *overlay.StateError
		if errors.As(err, &state) && state.Harmless {
			r.Result = checkWarning
		}
		rows = append(rows, r)
	}
	if rows == nil {
		return one("state", checkOK, "", "%s: every file is sound", x.dir)
	}
	return rows
}

func (x *examination) checkSettings(context.Context) []checkResult {
	if x.settled != nil {
		return []checkResult{failure("settings", x.settled, "grid up --check")}
	}
	return one("settings", checkOK, "", "they hold")
}

func (x *examination) checkAgent(context.Context) []checkResult {
	switch {
	case x.agent != nil && x.why == nil:
		return one("agent", checkOK, "", "it runs and answers")
	case x.agent == nil:
		return one("agent", checkWarning, "grid up, or grid service install", "none runs with %s", x.dir)
	}
	return []checkResult{failure("agent", x.why, "grid down, then grid up")}
}

func (x *examination) checkRendezvous(context.Context) []checkResult {
	address, err := x.o.agentRendezvous(x.dir, x.settings)
	switch {
	case err == nil && address == "":
		return one("rendezvous", checkSkipped, "", "none: the members of this grid find each other on the local network")
	case x.status != nil && x.status.Rendezvous.Registered:
		r := x.status.Rendezvous
		return one("rendezvous", checkOK, "", "registered at %s, %s", r.Address, rttText(r.RTT))
	case err != nil:
		return []checkResult{failure("rendezvous", err, "grid up --rendezvous HOST:PORT#PEERID")}
	case x.status == nil:
		return one("rendezvous", checkSkipped, "", "%s is not asked: %v", hostPort(address), orError(x.why))
	}
	return one("rendezvous", checkFailed, "grid netcheck; then see whether it runs, and on that port: "+hostPort(address),
		"not registered at %s: %s", hostPort(address), orText(x.status.Rendezvous.Error, "no answer in time"))
}

// hostPort returns the part of a rendezvous's address that names a computer.
func hostPort(address string) string {
	at, _, _ := strings.Cut(address, "#")
	return at
}

func orError(err error) string {
	if err == nil {
		return "there is no agent"
	}
	return err.Error()
}

func (x *examination) checkUDP(ctx context.Context) []checkResult {
	servers, err := x.o.stunServers(ctx, nil)
	if err != nil {
		return one("udp", checkSkipped, "", "there is no server to ask: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime/2)
	defer cancel()
	doc := netcheck(ctx, servers)
	if !slices.ContainsFunc(doc.Networks, func(n networkReport) bool { return n.Behavior.UDPBlocked != punch.Yes }) {
		return one("udp", checkFailed, "allow UDP to "+joinAddresses(servers)+" in the firewall; compare: grid netcheck --stun HOST:PORT", "no answer over UDP from %s", joinAddresses(servers))
	}
	return one("udp", checkOK, "", "%s", doc.Sentence)
}

// certificateWarning is how long before its end a membership is worth a warning:
// the agent renews it long before that.
const certificateWarning = 48 * time.Hour

func (x *examination) checkMembership(context.Context) []checkResult {
	const name = "certificate"
	if x.status == nil {
		if isMemberDir(x.dir) {
			return one(name, checkSkipped, "", "not read: %v", orError(x.why))
		}
		return one(name, checkSkipped, "", "this computer belongs to no grid")
	}
	g := x.status.Grid
	switch {
	case g == nil:
		return one(name, checkSkipped, "", "this computer belongs to no grid")
	case g.Self == nil:
		return one(name, checkFailed, "ask the grid's admin for an invitation, then: grid join TOKEN", "it is no member of %s now: %s", g.Name, g.Error)
	case time.Until(g.Self.ValidUntil) < certificateWarning:
		return one(name, checkWarning, "leave the agent running, so that it can renew it: grid up", "the membership of %s ends at %s", g.Name, g.Self.ValidUntil.Format(time.RFC3339))
	case g.Stale && x.agent != nil:
		return one(name, checkWarning, "see why the rendezvous is away: grid status", "nobody has confirmed the revocation list since %s", g.Confirmed.Format(time.RFC3339))
	}
	return one(name, checkOK, "", "%s until %s", fullName(g.Self.Name, g.Name), g.Self.ValidUntil.Format("2006-01-02"))
}

// clockWarning is a difference that is worth a word; beyond membership.Tolerance
// certificates are refused.
const clockWarning = 30 * time.Second

func (x *examination) checkClock(context.Context) []checkResult {
	const next = "set the clock: timedatectl set-ntp true, or the settings of this system"
	synchronised, known := clockSynchronised()
	if x.status != nil && x.status.Rendezvous.Registered {
		offset := x.status.Rendezvous.ClockOffset
		text := "within a second of the rendezvous"
		if offset != 0 {
			text = fmt.Sprintf("%v %s the rendezvous", offset.Abs().Round(time.Second), map[bool]string{true: "behind", false: "ahead of"}[offset > 0])
		}
		switch {
		case offset.Abs() > membership.Tolerance:
			return one("clock", checkFailed, next, "it is %s: certificates are taken for expired, or not yet valid", text)
		case offset.Abs() > clockWarning:
			return one("clock", checkWarning, next, "it is %s", text)
		}
		return one("clock", checkOK, "", "%s", text)
	}
	switch {
	case known && synchronised:
		return one("clock", checkOK, "", "the system keeps it synchronised")
	case known:
		return one("clock", checkWarning, next, "%s, and nothing keeps it synchronised", time.Now().Format(time.RFC3339))
	}
	return one("clock", checkSkipped, "", "%s; there is nothing to compare it with", time.Now().Format(time.RFC3339))
}

func (x *examination) checkPermissions(context.Context) []checkResult {
	info, err := os.Stat(x.dir)
	if err != nil {
		return one("permissions", checkSkipped, "", "%s is not there yet", x.dir)
	}
	if info.Mode().Perm()&0o006 != 0 {
		return one("permissions", checkWarning, "chmod 0700 "+x.dir, "everybody may look into %s", x.dir)
	}
	file := filepath.Join(x.dir, ".doctor")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return []checkResult{failure("permissions", err, "ls -ld "+x.dir)}
	}
	f.Close()
	if err := os.Remove(file); err != nil {
		return []checkResult{failure("permissions", err, "ls -l "+file)}
	}
	return one("permissions", checkOK, "", "%s is this user's own", x.dir)
}

func (x *examination) checkPorts(context.Context) []checkResult {
	if x.agent != nil {
		return one("port", checkOK, "", "the agent has its sockets")
	}
	port := int(x.settings.node.listenPort)
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return one("port", checkFailed, fmt.Sprintf("find who has it: ss -lnup sport = :%d; or choose another: grid up --listen-port PORT", port), "UDP port %d: %v", port, err)
	}
	pc.Close()
	if port == 0 {
		return one("port", checkOK, "", "any free UDP port is used")
	}
	return one("port", checkOK, "", "UDP port %d is free", port)
}

// leastMTU is what IPv6 needs (RFC 8200, section 5); a full packet of the
// transport fits from there on.
const leastMTU = 1280

// leastPayload is what is left of that behind the headers of IPv6 and UDP.
const leastPayload = leastMTU - 40 - 8

func (x *examination) checkMTU(context.Context) (rows []checkResult) {
	list, err := net.Interfaces()
	if err != nil {
		return []checkResult{failure("mtu", err, "ip link")}
	}
	var names []string
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		names = append(names, fmt.Sprintf("%s %d", i.Name, i.MTU))
		if i.MTU < leastMTU {
			rows = append(rows, one("mtu", checkWarning, fmt.Sprintf("raise it: ip link set %s mtu %d", i.Name, 1500), "%s carries packets of %d bytes, which is less than %d", i.Name, i.MTU, leastMTU)...)
		}
	}
	if x.status != nil {
		for _, p := range x.status.Peers {
			if p.Path.Kind == overlay.KindDirect && p.Path.MTU > 0 && p.Path.MTU < leastPayload {
				rows = append(rows, one("mtu", checkWarning, "look for a tunnel on the way: tracepath "+p.Path.Remote.Addr().String(), "the path to %s carries %d bytes in a packet", peerText(p), p.Path.MTU)...)
			}
		}
	}
	if rows == nil {
		return one("mtu", checkOK, "", "%s", orText(strings.Join(names, ", "), "there is no interface but loopback"))
	}
	return rows
}

func (x *examination) checkOffloads(context.Context) []checkResult {
	return checkOffloads()
}

// loopback is where offloads are tried.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
