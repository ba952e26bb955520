package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A floodRow is what one contender kept of its goodput under one flood.
type floodRow struct {
	row
	Sent      int64      `json:"flood_datagrams"`
	Control   cli.Number `json:"control_goodput_bps,omitzero"` // the same flood at an unread socket
	OfControl cli.Number `json:"of_control,omitzero"`
	Peak      cli.Number `json:"rss_peak_bytes,omitzero"`   // of the server
	Growth    cli.Number `json:"rss_growth_bytes,omitzero"` // of the peak, beyond the control's
}

type floodDocument struct {
	Rows  []floodRow `json:"rows"`
	Goals []goal     `json:"goals,omitzero"`
}

// A floodRun is one measurement: a transfer beside a flood.
type floodRun struct {
	goodput, peak float64
	sent          int64
}

// A floodPlan is what the flood command was asked for.
type floodPlan struct {
	rate    int
	rounds  int
	seconds float64
	profile string
	program string
}

func newFlood() *cobra.Command {
	var p floodPlan
	var names string
	cmd := &cobra.Command{
		Use:   "flood",
		Short: "Measure what a flood of Initials takes from a session",
		Long: `flood sends Initials to a server while one stream transfers, in network
namespaces of its own (root), and compares the goodput with that of a control:
the same flood at a socket that nobody reads. The floods are Initials without a
right mac1, Initials with one from spoofed sources, and whole flights from 64
real sources that answer Retries. quic-go gets Initials of QUIC from one source
and from spoofed ones. Memory is the largest resident size of the server during
the transfer, beyond that of the control.`,
		Example: "sudo ri2n-bench flood --contenders ri2n,quic --rounds 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.rate < 1 || p.rate > 1_000_000 || p.rounds < 1 || p.rounds > 100 || !(p.seconds >= 0.5 && p.seconds <= 600) {
				return cli.Usagef("--rate, --rounds, --seconds", cmd.CommandPath()+" --help", "must be from 1 to 1000000, from 1 to 100 and from 0.5 to 600")
			}
			chosen, err := contendersNamed(names)
			if err != nil {
				return err
			}
			if err := kernel.Check(); err != nil {
				return &cli.Error{Object: "flood", Cause: err.Error(), Next: "run it as root", Code: cli.ExitFailed, Err: err}
			}
			if p.program, err = os.Executable(); err != nil {
				return err
			}
			return p.run(cmd, chosen)
		},
	}
	cmd.Flags().StringVar(&names, "contenders", "ri2n,quic", "which to measure, of ri2n, ri2n-cubic and quic")
	cmd.Flags().IntVar(&p.rate, "rate", 20_000, "Initials a second")
	cmd.Flags().IntVar(&p.rounds, "rounds", 3, "how often each flood and its control are measured, in turns")
	cmd.Flags().Float64Var(&p.seconds, "seconds", 5, "length of a transfer")
	cmd.Flags().StringVar(&p.profile, "profile", "", "folder to write the CPU profiles of the servers to")
	return cmd
}

// floodKinds are the floods that a contender gets.
func floodKinds(contender string) []string {
	if contender == "quic" {
		return []string{"one source", "spoofed sources"}
	}
	return []string{"no mac1", "spoofed sources", "64 real sources"}
}

func (p floodPlan) run(cmd *cobra.Command, chosen []contender) error {
	ctx := cmd.Context()
	var d floodDocument
	for _, c := range chosen {
		for _, kind := range floodKinds(c.name) {
			r := p.compare(ctx, c.name, kind)
			d.Rows = append(d.Rows, r)
			if strings.HasPrefix(c.name, "ri2n") {
				nan := cli.Number(math.NaN())
				d.Goals = append(d.Goals,
					goal{"flood", c.name + ", " + kind + ": goodput / control", 0.95, nan, r.OfControl, float64(r.OfControl) >= 0.95},
					goal{"flood", c.name + ", " + kind + ": memory in MiB", nan, 16, r.Growth / (1 << 20), float64(r.Growth) <= 16<<20})
			}
		}
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "bench", d)
	}
	return d.write(cmd.OutOrStdout())
}

func (d floodDocument) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "contender\tflood\tMbit/s\tcontrol\tof control\tRSS MiB\tgrowth\tsent\t")
	for _, r := range d.Rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Contender, r.Variant, show(r.Goodput/1e6, 0), show(r.Control/1e6, 0),
			show(r.OfControl, 3), show(r.Peak/(1<<20), 1), show(r.Growth/(1<<20), 1), r.Sent, r.Error)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, g := range d.Goals {
		fmt.Fprintf(w, "%s: %s, %s: %s\n", g.Figure, g.limit(), show(g.Value, 2), g.verdict())
	}
	return nil
}

// compare measures one flood and its control in turns.
func (p floodPlan) compare(ctx context.Context, name, kind string) floodRow {
	var under, control samples
	var peaks, quiet []float64
	var sent int64
	var err error
	for r := 0; r < p.rounds && err == nil; r++ {
		var run, still floodRun
		if still, err = p.measure(ctx, name, kind, true, ""); err != nil {
			break
		}
		profile := ""
		if p.profile != "" && r == 0 {
			profile = p.profile + "/flood-" + name + "-" + strings.ReplaceAll(kind, " ", "-") + ".pprof"
		}
		if run, err = p.measure(ctx, name, kind, false, profile); err != nil {
			break
		}
		control.goodput, quiet = append(control.goodput, still.goodput), append(quiet, still.peak)
		under.goodput, peaks = append(under.goodput, run.goodput), append(peaks, run.peak)
		under.ended++
		sent += run.sent
	}
	under.err = err
	r := floodRow{row: under.row("flood", kind, name), Sent: sent, Control: middle(control.goodput), Peak: middle(peaks)}
	r.OfControl = r.Goodput / r.Control
	r.Growth = r.Peak - middle(quiet)
	return r
}

// measure runs one transfer beside a flood, which the control aims at a socket
// that nobody reads.
func (p floodPlan) measure(ctx context.Context, name, kind string, control bool, profile string) (r floodRun, err error) {
	pair, err := kernel.StartPair(1, netsim.Link{})
	if err != nil {
		return r, err
	}
	defer pair.Close()
	if err := floodRoutes(pair); err != nil {
		return r, err
	}
	server := netip.AddrPortFrom(pair.Addr(1, 0), basePort)
	job1 := job{Contender: name, Address: server.String(), Sessions: 1000, Profile: profile}
	proc, to, err := startPeer(ctx, p.program, pair.Host(1), -1, job1)
	if err != nil {
		return r, err
	}
	defer func() {
		if profile != "" {
			proc.end()
		}
		proc.kill()
	}()
	victim := server
	if control {
		unread, err := pair.Host(1).ListenPacket(ctx, basePort+1)
		if err != nil {
			return r, err
		}
		defer unread.Close()
		victim = netip.AddrPortFrom(server.Addr(), basePort+1)
	}
	f, err := newFlood1(pair, victim, to, name, kind)
	if err != nil {
		return r, err
	}
	defer f.close()
	during, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { f.send(during, p.rate) })
	beside.Go(func() {
		for sleep(during, 20*time.Millisecond) == nil {
			if rss, err := residentSizeOf(proc.cmd.Process.Pid); err == nil {
				r.peak = max(r.peak, float64(rss))
			}
		}
	})
	client := job{Contender: name, Address: to.address, Peer: to.peer, Measure: measuresBulk, Seconds: p.seconds}
	m, err := measureWith(ctx, p.program, pair.Host(0), -1, client, inSeconds(p.seconds)+slack)
	stop()
	beside.Wait()
	if err != nil {
		return r, err
	}
	r.goodput, r.sent = m.Bulk.BitsPerSecond, f.sent.Load()
	return r, nil
}

// residentSizeOf returns the bytes of memory that a process occupies.
func residentSizeOf(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, errors.New("statm is empty")
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

const realSources = 64

// floodSource is the address of a real source, each in a /24 of its own.
func floodSource(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, byte(i), 1}) }

// floodRoutes makes the spoofed and the further real sources reachable.
func floodRoutes(pair *kernel.Pair) error {
	err := pair.Host(1).Do(func() error {
		link, err := netlink.LinkByName(kernel.PairDevice(0))
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: pair.Addr(0, 0).AsSlice(),
			Dst: &net.IPNet{IP: net.IPv4(100, 64, 0, 0), Mask: net.CIDRMask(10, 32)}}
		route.SetFlag(netlink.FLAG_ONLINK)
		return netlink.RouteAdd(route)
	})
	if err != nil {
		return fmt.Errorf("route back to the flood: %w", err)
	}
	return pair.Host(0).Do(func() error {
		link, err := netlink.LinkByName(kernel.PairDevice(0))
		if err != nil {
			return err
		}
		for i := range realSources {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: floodSource(i).AsSlice(), Mask: net.CIDRMask(32, 32)}}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return nil
	})
}

// A flood1 is one flooder.
type flood1 struct {
	victim netip.AddrPort
	packet [][]byte // in turns
	raw    int      // socket of spoofed sources; below zero: none
	from   []*floodEnd
	sent   atomic.Int64
	stop   sync.WaitGroup
}

// A floodEnd is a real source.
type floodEnd struct {
	socket *net.UDPConn

	mu   sync.Mutex
	next [][]byte // what it owes after a Retry
}

func newFlood1(pair *kernel.Pair, victim netip.AddrPort, to target, contender, kind string) (*flood1, error) {
	f := &flood1{victim: victim, raw: -1}
	maker, err := newInitialMaker(to.peer)
	if err != nil {
		return nil, err
	}
	const prepared = 2048
	for i := range prepared {
		switch {
		case contender == "quic":
			f.packet = append(f.packet, quicInitial())
		case kind == "no mac1":
			f.packet = append(f.packet, junkInitial())
		default:
			flight, err := maker.flight(uint64(i+1)*0x9e3779b97f4a7c15, nil)
			if err != nil {
				return nil, err
			}
			f.packet = append(f.packet, flight...)
		}
	}
	err = pair.Host(0).Do(func() (err error) {
		if kind == "spoofed sources" {
			f.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			return err
		}
		sources := 1
		if kind == "64 real sources" {
			sources = realSources
		}
		for i := range sources {
			at := pair.Addr(0, 0)
			if sources > 1 {
				at = floodSource(i)
			}
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
			if err != nil {
				return err
			}
			end := &floodEnd{socket: c}
			f.from = append(f.from, end)
			if sources > 1 {
				f.stop.Go(func() { end.answer(maker) })
			}
		}
		return nil
	})
	if err != nil {
		f.close()
		return nil, fmt.Errorf("flooder: %w", err)
	}
	return f, nil
}

// answer takes Retries until the socket is closed.
func (e *floodEnd) answer(maker *initialMaker) {
	b := make([]byte, 2048)
	for {
		n, err := e.socket.Read(b)
		if err != nil {
			return
		}
		scid, token, ok := retryToken(b[:n])
		if !ok {
			continue
		}
		e.mu.Lock()
		if len(e.next) == 0 {
			e.next, _ = maker.flight(scid, token)
		}
		e.mu.Unlock()
	}
}

// send sends rate datagrams a second until ctx ends.
func (f *flood1) send(ctx context.Context, rate int) {
	started := time.Now()
	for i := 0; sleep(ctx, time.Millisecond) == nil; {
		for due := int(time.Since(started).Seconds() * float64(rate)); i < due; i++ {
			f.one(i)
		}
		f.sent.Store(int64(i))
	}
}

func (f *flood1) one(i int) {
	b := f.packet[i%len(f.packet)]
	if f.raw >= 0 {
		f.spoof(b)
		return
	}
	e := f.from[i%len(f.from)]
	if len(f.from) > 1 {
		e.mu.Lock()
		if len(e.next) > 0 {
			b, e.next = e.next[0], e.next[1:]
		}
		e.mu.Unlock()
	}
	e.socket.WriteToUDPAddrPort(b, f.victim)
}

// spoof sends b from a random address of 100.64/10.
func (f *flood1) spoof(b []byte) {
	const headers = 28
	packet := make([]byte, headers, headers+floodSize)
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint32(packet[12:], 100<<24|64<<16|rand.Uint32()&(1<<22-1))
	to := f.victim.Addr().As4()
	copy(packet[16:], to[:])
	binary.BigEndian.PutUint16(packet[20:], uint16(1024+rand.IntN(60000)))
	binary.BigEndian.PutUint16(packet[22:], f.victim.Port())
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(b)))
	packet = append(packet, b...) // no UDP checksum, which IPv4 allows
	unix.Sendto(f.raw, packet, 0, &unix.SockaddrInet4{Addr: to})
}

func (f *flood1) close() {
	if f.raw >= 0 {
		unix.Close(f.raw)
	}
	for _, e := range f.from {
		e.socket.Close()
	}
	f.stop.Wait()
}
