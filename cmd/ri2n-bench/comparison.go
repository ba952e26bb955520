package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/ri2n-bench/internal/hostnet"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A comparison runs scenarios and keeps what the report shows.
type comparison struct {
	rounds   int
	seconds  float64
	pings    int
	setups   int
	sessions int             // of idle, for ri2n; the others take a tenth
	wanted   map[string]bool // contenders; nil: those of the scenario
	program  string          // this one
	profiles string          // folder for CPU profiles; empty: none
	traces   tracing         // File is a folder; empty: none
	progress func(label string, round, rounds int, contender string)

	results []result
}

// A result is a row with what the plots are drawn from.
type result struct {
	row
	pings []time.Duration // of all rounds
	links [][]float64     // bit/s of each link in each sampleStep of the first round
}

const (
	basePort   = 4433
	sampleStep = 100 * time.Millisecond
	// recovery is what a transfer is given after a fault until its goodput
	// counts again.
	recovery = 500 * time.Millisecond
)

// chosen returns the contenders of v that were asked for.
func (k *comparison) chosen(v variant) []string {
	if k.wanted == nil {
		return v.contenders
	}
	var names []string
	for _, name := range v.contenders {
		if k.wanted[name] {
			names = append(names, name)
		}
	}
	return names
}

// refuse adds rows that all failed for the same reason.
func (k *comparison) refuse(s scenario, v variant, err error) {
	for _, name := range k.chosen(v) {
		failed := samples{err: err}
		k.results = append(k.results, result{row: failed.row(s.name, v.name, name)})
	}
}

// run measures all contenders of one variant in turns and adds their rows.
func (k *comparison) run(ctx context.Context, s scenario, v variant) {
	names := k.chosen(v)
	if len(names) == 0 {
		return
	}
	if v.homes {
		k.runHomes(ctx, s, v)
		return
	}
	bed, err := newTestbed(v)
	if err != nil {
		k.refuse(s, v, err)
		return
	}
	bed.patience = k.profiles != "" || k.traces.File != ""
	defer bed.close()
	all := make([]samples, len(names))
	results := make([]result, len(names))
	servers := make([]target, len(names))
	for i, name := range names {
		servers[i], all[i].err = k.serve(ctx, bed, name, i, k.profile(s, v, name+"-receiver"), k.trace(s, v, name, "receiver"))
	}
	var rival target
	if v.rival != "" {
		if rival, err = k.serve(ctx, bed, v.rival, len(names), "", tracing{}); err != nil {
			k.refuse(s, v, fmt.Errorf("rival %s: %w", v.rival, err))
			return
		}
	}
	rounds := k.rounds
	if v.once {
		rounds = 1
	}
	for r := range rounds {
		for i, name := range names {
			if ctx.Err() != nil && all[i].err == nil {
				all[i].err = context.Cause(ctx)
			}
			if all[i].err != nil {
				continue
			}
			k.progress(v.label(s), r+1, rounds, name)
			t := turn{k: k, bed: bed, job: k.job(v, name, servers[i])}
			if r == 0 {
				t.job.Profile = k.profile(s, v, name+"-sender")
				t.job.Trace = k.trace(s, v, name, "sender")
			}
			if v.rival != "" {
				t.rival = &job{Contender: v.rival, Address: rival.address, Measure: v.measure, Seconds: t.job.Seconds}
			}
			links, err := t.take(ctx, &all[i])
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				all[i].err = err
			}
			if r == 0 {
				results[i].links = links
			}
		}
	}
	for i, name := range names {
		results[i].row = all[i].row(s.name, v.name, name)
		results[i].pings = all[i].ping
		k.results = append(k.results, results[i])
	}
}

// profile returns the file for the CPU profile of one process.
func (k *comparison) profile(s scenario, v variant, process string) string {
	if k.profiles == "" {
		return ""
	}
	return filepath.Join(k.profiles, fileName(s, v, process)+".pprof")
}

// trace returns where one process of ri2n says what it does.
func (k *comparison) trace(s scenario, v variant, contender, end string) tracing {
	if k.traces.File == "" || !strings.HasPrefix(contender, "ri2n") {
		return tracing{}
	}
	t := k.traces
	t.File = filepath.Join(t.File, fileName(s, v, contender+"-"+end)+".sqlog")
	return t
}

// fileName names a file of one process.
func fileName(s scenario, v variant, process string) string {
	label := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(v.name))
	if label != "" {
		label += "-"
	}
	return s.name + "-" + label + process
}

// job is what the client of a contender does in one round.
func (k *comparison) job(v variant, name string, to target) job {
	j := job{Contender: name, Address: to.address, Peer: to.peer, Measure: v.measure, Seconds: k.seconds}
	if v.longer > 0 {
		j.Seconds *= v.longer
	}
	if v.oneLink {
		j.Address = firstAddress(j.Address)
	}
	switch v.measure {
	case measuresPing:
		if j.Count = k.pings; v.pings > 0 {
			j.Count = min(k.pings, v.pings)
		}
	case measuresSetup:
		j.Count = k.setups
	case measuresIdle:
		// Those that hold tens of times as much need no more to be weighed.
		if j.Count = k.sessions; name != "ri2n" {
			j.Count = max(1, k.sessions/10)
		}
	}
	j.Verify = v.fault != nil
	return j
}

// serve starts the server of a contender on the port of its own.
func (k *comparison) serve(ctx context.Context, bed *testbed, name string, i int, profile string, trace tracing) (target, error) {
	port := strconv.Itoa(basePort + i)
	var addresses []string
	for l := range bed.variant.links {
		addresses = append(addresses, net.JoinHostPort(bed.pair.Addr(1, l).String(), port))
	}
	j := job{Contender: name, Address: strings.Join(addresses, ","), Sessions: 2*k.sessions + 1000, Profile: profile, Trace: trace}
	p, to, err := startPeer(ctx, k.program, bed.pair.Host(1), bed.cpu(1), j)
	if err != nil {
		return target{}, err
	}
	bed.peers = append(bed.peers, p)
	return to, nil
}

// A testbed is the network of one variant, with the servers on it.
type testbed struct {
	variant  variant
	pair     *kernel.Pair
	peers    []*process
	patience bool // profiles and traces are to be written
}

func newTestbed(v variant) (*testbed, error) {
	pair, err := kernel.StartPair(1, v.links...)
	if err != nil {
		return nil, err
	}
	bed := &testbed{variant: v, pair: pair}
	if v.offloadsOff {
		for end := range 2 {
			err := pair.Host(end).Do(func() error { return hostnet.DisableOffloads(kernel.PairDevice(0)) })
			if err != nil {
				bed.close()
				return nil, err
			}
		}
	}
	if len(v.links) > 1 {
		bed.joinSubflows()
	}
	return bed, nil
}

// joinSubflows lets Multipath TCP find the further links. Where the kernel has
// none, its contender says so.
func (b *testbed) joinSubflows() {
	further := len(b.variant.links) - 1
	if b.variant.oneLink || b.pair.Host(0).Do(func() error { return hostnet.AllowSubflows(further) }) != nil {
		return
	}
	_ = b.pair.Host(1).Do(func() error {
		if err := hostnet.AllowSubflows(further); err != nil {
			return err
		}
		for i := 1; i <= further; i++ {
			if err := hostnet.Announce(b.pair.Addr(1, i), uint8(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// cpu returns the processor of one end, below zero for any.
func (b *testbed) cpu(end int) int {
	if b.variant.pinned {
		return end
	}
	return -1
}

// received returns how many bytes each link has brought to the receiving end.
func (b *testbed) received() ([]uint64, error) {
	counts := make([]uint64, len(b.variant.links))
	err := b.pair.Host(1).Do(func() (err error) {
		for i := range counts {
			if counts[i], err = hostnet.Received(kernel.PairDevice(i)); err != nil {
				return err
			}
		}
		return nil
	})
	return counts, err
}

// SetLink implements faulty.
func (b *testbed) SetLink(i int, l netsim.Link) error { return b.pair.SetLink(i, l) }

// busiest implements faulty by watching for a moment.
func (b *testbed) busiest(ctx context.Context) (int, error) {
	before, err := b.received()
	if err != nil {
		return 0, err
	}
	if err := sleep(ctx, sampleStep); err != nil {
		return 0, err
	}
	after, err := b.received()
	if err != nil {
		return 0, err
	}
	best := 0
	for i := range after {
		if after[i]-before[i] > after[best]-before[best] {
			best = i
		}
	}
	return best, nil
}

func (b *testbed) close() {
	for _, p := range b.peers {
		if b.patience {
			p.end()
		}
		p.kill()
	}
	b.pair.Close()
}

// A turn is one contender's measurement in one round.
type turn struct {
	k     *comparison
	bed   *testbed
	job   job
	rival *job // nil: none
}

// slack is what a measurement may take beyond its transfers.
const slack = 45 * time.Second

// take measures, adds what came out to s, and returns the throughput of each
// link over time.
func (t turn) take(ctx context.Context, s *samples) (links [][]float64, err error) {
	limit := inSeconds(t.job.Seconds) + slack
	if t.job.Measure == measuresIdle {
		limit += 4 * slack
	}
	during, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()

	var rival measured
	var rivalErr error
	rivalDone := make(chan struct{})
	if t.rival != nil {
		beside.Go(func() {
			defer close(rivalDone)
			rival, rivalErr = measureWith(during, t.k.program, t.bed.pair.Host(0), -1, *t.rival, limit)
		})
	}
	beside.Go(func() { links = t.sample(during) })
	var fault time.Time
	var faultErr error
	faultDone := make(chan struct{})
	if t.bed.variant.fault != nil {
		beside.Go(func() {
			defer close(faultDone)
			fault, faultErr = t.bed.variant.fault(during, t.bed, inSeconds(t.job.Seconds))
		})
	}
	m, err := measureWith(ctx, t.k.program, t.bed.pair.Host(0), t.bed.cpu(0), t.job, limit)
	if t.rival != nil && err == nil {
		<-rivalDone
		err = rivalErr
	}
	stop()
	if t.bed.variant.fault != nil {
		<-faultDone
		if err == nil {
			err = faultErr
		}
		for i, l := range t.bed.variant.links {
			if setErr := t.bed.pair.SetLink(i, l); err == nil {
				err = setErr
			}
		}
	}
	beside.Wait()
	if err != nil {
		return links, err
	}
	s.add(m)
	if !fault.IsZero() {
		s.recovered = append(s.recovered, m.Bulk.Report.after(fault.Add(recovery)))
	}
	if t.rival != nil {
		ours := m.Bulk.BitsPerSecond
		s.share = append(s.share, ours/(ours+rival.Bulk.BitsPerSecond))
	}
	return links, nil
}

// sample returns the bit/s that arrived on each link in each sampleStep until
// ctx ends.
func (t turn) sample(ctx context.Context) [][]float64 {
	if t.job.Measure != measuresBulk {
		return nil
	}
	links := make([][]float64, len(t.bed.variant.links))
	before, err := t.bed.received()
	if err != nil {
		return nil
	}
	at := time.Now()
	for sleep(ctx, sampleStep) == nil {
		now, err := t.bed.received()
		then := time.Now()
		if err != nil {
			return links
		}
		for i := range links {
			links[i] = append(links[i], float64(now[i]-before[i])*8/then.Sub(at).Seconds())
		}
		before, at = now, then
	}
	return links
}

// add keeps what a client measured in one round.
func (s *samples) add(m measured) {
	s.ended++
	s.ping = append(s.ping, m.Ping...)
	s.setup = append(s.setup, m.Setup...)
	if m.Bulk != nil {
		s.goodput = append(s.goodput, m.Bulk.BitsPerSecond)
		s.cpuPerGB = append(s.cpuPerGB, m.Bulk.CPUPerGB)
		s.gap = append(s.gap, m.Bulk.Report.LongestGap*1e3)
	}
	if m.Idle != nil {
		s.idle = m.Idle
	}
	if m.Note != "" {
		s.note = m.Note
	}
}

// after returns the goodput in bit/s from time t to the end; no number if that
// is before the start or less than shortest.
func (r bulkReport) after(t time.Time) float64 {
	from := t.Sub(time.Unix(0, r.Started))
	length := time.Duration(r.Seconds * float64(time.Second))
	first := int((from + bulkStep - 1) / bulkStep)
	last := int(length / bulkStep) // the last step may be a part only
	const shortest = 500 * time.Millisecond
	if from < 0 || time.Duration(last-first)*bulkStep < shortest {
		return math.NaN()
	}
	var sum int64
	for i := first; i < min(last, len(r.Steps)); i++ {
		sum += r.Steps[i]
	}
	return float64(sum) * 8 / (time.Duration(last-first) * bulkStep).Seconds()
}
