package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
)

// A scenario is one question to the contenders. Most have several variants.
type scenario struct {
	name, about string
	variants    []variant
}

// A variant is one network with one measurement on it.
type variant struct {
	name       string // empty where a scenario has only one
	links      []netsim.Link
	contenders []string
	measure    measure
	// offloadsOff has no packet above the MTU pass the devices.
	offloadsOff bool
	// pinned binds each end to a processor of its own.
	pinned bool
	// longer multiplies the length of each transfer. Zero means 1.
	longer float64
	// once has a single round do: the transfer is long.
	once bool
	// pings is the number of messages in each round. Zero means what was asked
	// for.
	pings int
	// oneLink has contenders use the first link only.
	oneLink bool
	// homes has both ends be behind NATs, two each, instead of links.
	homes bool
	// cutUplink silences, after two fifths of a transfer between homes, one of
	// the sender's uplinks: the first is 1. Zero cuts none.
	cutUplink int
	// fault runs beside each transfer.
	fault fault
	// rival is a contender that sends over the same link at the same time.
	rival string
}

// A fault changes links while a transfer of the given length runs, and returns
// when the change came that the transfer must recover from; the zero time if
// there is none. It ends with ctx.
type fault func(ctx context.Context, f faulty, length time.Duration) (time.Time, error)

// A faulty network is one whose links can be changed and watched.
type faulty interface {
	// SetLink changes link i.
	SetLink(i int, l netsim.Link) error
	// busiest returns the link that carries most at the moment.
	busiest(ctx context.Context) (int, error)
}

var perfect = netsim.Link{}

// line is a link with a rate in Mbit/s and a one-way delay of half the round
// trip. Its queue holds 100 ms.
func line(megabits int64, roundTrip time.Duration, loss float64) netsim.Link {
	return netsim.Link{Rate: megabits * 1_000_000, Delay: roundTrip / 2, Loss: loss}
}

var (
	streams  = []string{"ri2n", "tls", "quic", "kcp", "tcp"}
	lossy    = []string{"ri2n", "ri2n-cubic", "tcp-bbr", "tcp-cubic", "quic", "kcp"}
	own      = []string{"ri2n", "ri2n-cubic"}
	severals = []string{"ri2n", "ri2n-cubic", "mptcp"}
)

// scenarios are run in this order. Their conditions are those of
// docs/performance.md.
var scenarios = []scenario{
	{"bulk", "one stream over a veth pair, which passes bursts of 64 KiB uncut", []variant{
		{links: []netsim.Link{perfect}, measure: measuresBulk, contenders: []string{"ri2n", "ri2n-cubic", "tls", "quic", "kcp", "tcp", "mptcp", "ceiling"}},
	}},
	{"cut", "the same with offloads off: nothing above 1500 bytes passes", []variant{
		{links: []netsim.Link{perfect}, measure: measuresBulk, offloadsOff: true, contenders: []string{"ri2n", "ri2n-cubic", "tls", "quic", "kcp", "tcp", "ceiling"}},
	}},
	{"ping", "64 bytes there and back over a veth pair, each end on a processor of its own", []variant{
		{links: []netsim.Link{perfect}, measure: measuresPing, pinned: true, contenders: []string{"ri2n", "udp", "tls", "quic", "kcp", "tcp"}},
	}},
	{"setup", "from dial to the first echoed byte over a veth pair; kcp and tcp have no handshake of keys", []variant{
		{links: []netsim.Link{perfect}, measure: measuresSetup, contenders: streams},
	}},
	{"loss", "one stream over a slow link that loses packets", []variant{
		{name: "100 Mbit/s, 40 ms, 0 %", links: []netsim.Link{line(100, 40*time.Millisecond, 0)}, measure: measuresBulk, longer: 2, contenders: lossy},
		{name: "100 Mbit/s, 40 ms, 1 %", links: []netsim.Link{line(100, 40*time.Millisecond, 0.01)}, measure: measuresBulk, longer: 2, contenders: lossy},
		{name: "100 Mbit/s, 40 ms, 3 %", links: []netsim.Link{line(100, 40*time.Millisecond, 0.03)}, measure: measuresBulk, longer: 2, contenders: lossy},
		{name: "20 Mbit/s, 100 ms, 1 %", links: []netsim.Link{line(20, 100*time.Millisecond, 0.01)}, measure: measuresBulk, longer: 3, contenders: lossy},
	}},
	{"two-links", "one stream over two links of 100 Mbit/s and 10 ms each, and between two homes with two NATed uplinks each", []variant{
		{name: "one link", links: equalLinks, measure: measuresBulk, longer: 2, oneLink: true, contenders: severals},
		{name: "both links", links: equalLinks, measure: measuresBulk, longer: 2, contenders: severals},
		{name: "two homes, one uplink each", homes: true, measure: measuresBulk, longer: 2, oneLink: true, contenders: own},
		{name: "two homes, both uplinks", homes: true, measure: measuresBulk, longer: 2, contenders: own},
		{name: "two homes, first uplink cut", homes: true, measure: measuresBulk, longer: 2, cutUplink: 1, contenders: own},
		{name: "two homes, second uplink cut", homes: true, measure: measuresBulk, longer: 2, cutUplink: 2, contenders: own},
	}},
	{"unequal-links", "one stream over two links that differ", []variant{
		{name: "100 Mbit/s at 10 ms alone", links: unequalDelay, measure: measuresBulk, longer: 2, oneLink: true, contenders: severals},
		{name: "100+100 Mbit/s at 10/100 ms", links: unequalDelay, measure: measuresBulk, longer: 3, contenders: severals},
		{name: "100+10 Mbit/s at 10 ms", links: unequalRate, measure: measuresBulk, longer: 2, contenders: severals},
	}},
	{"link-dies", "of two links of 100 Mbit/s and 20 ms, the one that carries most goes silent during the transfer; every byte is compared", []variant{
		{links: failingLinks, measure: measuresBulk, longer: 2, fault: cutBusiest, contenders: severals},
	}},
	{"flap", "one of two links of 100 Mbit/s and 20 ms goes and comes once a second; every byte is compared", []variant{
		{links: failingLinks, measure: measuresBulk, longer: 20, once: true, fault: flapFirst, contenders: severals},
	}},
	{"redundant", "64 bytes there and back over two links of 100 Mbit/s and 40 ms that lose 3 % each, all data on both", []variant{
		{links: lossyLinks, measure: measuresPing, pings: 500, contenders: []string{"ri2n-redundant", "ri2n", "mptcp"}},
	}},
	{"idle", "sessions without traffic: memory and goroutines of the dearer end for each session, processor time of both", []variant{
		{links: []netsim.Link{perfect}, measure: measuresIdle, longer: 20.0 / 3, once: true, contenders: streams},
	}},
	{"fair", "one stream beside one of kernel TCP on a link of 100 Mbit/s and 40 ms", []variant{
		{name: "beside CUBIC", links: []netsim.Link{line(100, 40*time.Millisecond, 0)}, measure: measuresBulk, longer: 5, rival: "tcp-cubic", contenders: []string{"ri2n", "ri2n-cubic", "quic", "kcp", "tcp-bbr"}},
		{name: "beside BBR", links: []netsim.Link{line(100, 40*time.Millisecond, 0)}, measure: measuresBulk, longer: 5, rival: "tcp-bbr", contenders: []string{"ri2n", "ri2n-cubic", "quic", "kcp", "tcp-cubic"}},
	}},
}

var (
	equalLinks   = []netsim.Link{line(100, 10*time.Millisecond, 0), line(100, 10*time.Millisecond, 0)}
	unequalDelay = []netsim.Link{line(100, 10*time.Millisecond, 0), line(100, 100*time.Millisecond, 0)}
	unequalRate  = []netsim.Link{line(100, 10*time.Millisecond, 0), line(10, 10*time.Millisecond, 0)}
	lossyLinks   = []netsim.Link{line(100, 40*time.Millisecond, 0.03), line(100, 40*time.Millisecond, 0.03)}
	failingLinks = []netsim.Link{line(100, 20*time.Millisecond, 0), line(100, 20*time.Millisecond, 0)}
)

// cutBusiest silences, after two fifths of the transfer, the link that carries
// most of it.
func cutBusiest(ctx context.Context, f faulty, length time.Duration) (time.Time, error) {
	if err := sleep(ctx, length*2/5); err != nil {
		return time.Time{}, nil // the transfer ended first, and says why
	}
	i, err := f.busiest(ctx)
	if ctx.Err() != nil {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	dead := failingLinks[i]
	dead.Cut = true
	at := time.Now()
	return at, f.SetLink(i, dead)
}

// flapFirst cuts the first link for the second half of each second.
func flapFirst(ctx context.Context, f faulty, _ time.Duration) (time.Time, error) {
	for cut := false; ; cut = !cut {
		l := failingLinks[0]
		l.Cut = cut
		if err := f.SetLink(0, l); err != nil {
			return time.Time{}, err
		}
		if sleep(ctx, time.Second/2) != nil {
			return time.Time{}, nil
		}
	}
}

func scenarioNames() string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return strings.Join(names, ",")
}

// scenariosNamed resolves a comma-separated list, in the order of scenarios.
// "all" stands for all of them.
func scenariosNamed(list string) ([]scenario, error) {
	want := make(map[string]bool)
	for name := range strings.SplitSeq(list, ",") {
		want[strings.TrimSpace(name)] = true
	}
	all := want["all"]
	delete(want, "all")
	var chosen []scenario
	for _, s := range scenarios {
		if all || want[s.name] {
			chosen = append(chosen, s)
		}
		delete(want, s.name)
	}
	for name := range want {
		return nil, cli.Usagef("--scenario "+list, "ri2n-bench compare --scenario "+scenarios[0].name,
			"there is no scenario %q; there are %s", name, scenarioNames())
	}
	return chosen, nil
}

// label names a variant of a scenario for people.
func (v variant) label(s scenario) string {
	if v.name == "" {
		return s.name
	}
	return fmt.Sprintf("%s (%s)", s.name, v.name)
}
