package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
	"github.com/instantgrid/instantgrid/netsim"
)

// What bench-grid measures of the store.

// storeFlags say how large that is.
type storeFlags struct {
	shareMB int // of common data
	plainMB int // of the argument of each call, for comparison
	moveMiB int // of the object that goes over one link
	objects int // of 4 KiB
}

func defaultStoreBench() storeFlags {
	return storeFlags{shareMB: 50, plainMB: 2, moveMiB: 1024, objects: 1_000_000}
}

func (f *storeFlags) check(command string) error {
	for _, x := range []struct {
		flag             string
		value, most, def int
	}{{"--share-mb", f.shareMB, 256, 50}, {"--move-mib", f.moveMiB, 8192, 1024}, {"--objects", f.objects, 10_000_000, 1_000_000}} {
		if x.value < 1 || x.value > x.most {
			return cli.Usagef(fmt.Sprintf("%s %d", x.flag, x.value), fmt.Sprintf("%s %s %d", command, x.flag, x.def), "it is not within 1 and %d", x.most)
		}
	}
	return nil
}

const shareWorkersInHome = 4

// shareAccess is what each home has where common data are measured: 20 Mbit/s up,
// 100 Mbit/s down, 20 ms of round trip to the core.
var shareAccess = netsim.Link{
	Delay: 10 * time.Millisecond, Rate: 20_000_000,
	Down: &netsim.Link{Delay: 10 * time.Millisecond, Rate: 100_000_000},
}

// atLeast returns a figure with a lower bound.
func atLeast(scenario, figure string, limit, value float64) gridFigure {
	return gridFigure{scenario, figure, cli.Number(limit), cli.Number(math.NaN()), cli.Number(value), value >= limit}
}

// stated returns a figure without a bound.
func stated(scenario, figure string, value float64) gridFigure {
	return gridFigure{scenario, figure, cli.Number(math.NaN()), cli.Number(math.NaN()), cli.Number(value), true}
}

// commonData is what runCommonData has found.
type commonData struct {
	Store *shareStory `json:"store"`
	Plain *shareStory `json:"plain_arguments"` // of other bytes; compare copies
}

// runCommonData measures the story of common data, and calls that have them as
// their argument.
func runCommonData(ctx context.Context, b *gridBench) (*benchSection, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	h, err := programs.newHomes(filepath.Join(b.dir, "common"), shareAccess, shareWorkersInHome)
	if err != nil {
		return nil, err
	}
	defer h.end()
	b.progress("common-data: %d workers join", len(h.workers))
	err = h.start(ctx, ctx, func(w homeMember) error { return h.callWorker(ctx, w.name, plainWork, 1) })
	if err != nil {
		return nil, err
	}
	say := func(format string, args ...any) {
		if line := strings.TrimSpace(fmt.Sprintf(format, args...)); !strings.Contains(line, "\n") {
			b.progress("common-data: %s", line)
		}
	}
	var d commonData
	if d.Store, err = h.tellShare(ctx, int64(b.store.shareMB)*1_000_000, say); err != nil {
		return nil, err
	}
	b.progress("common-data: %d calls with %d MB each as argument", len(h.workers), b.store.plainMB)
	if d.Plain, err = h.plainArguments(ctx, int64(b.store.plainMB)*1_000_000); err != nil {
		return nil, err
	}
	const name = "common-data"
	copies := chart.Chart{Title: "copies of the data", XLabel: "0: sent by the source; 1 to 4: received by each home", YLabel: "copies"}
	for _, x := range []struct {
		name string
		s    *shareStory
	}{{"store", d.Store}, {"plain rpc arguments", d.Plain}} {
		line := chart.Series{Name: x.name}
		for i, u := range x.s.Uplinks {
			bytes := u.Received
			if i == 0 {
				bytes = u.Sent
			}
			line.X, line.Y = append(line.X, float64(i)), append(line.Y, float64(bytes)/float64(x.s.Size))
		}
		copies.Series = append(copies.Series, line)
	}
	ideal := float64(d.Store.Size) * 8 / float64(shareAccess.Rate)
	return &benchSection{Data: d, charts: []chart.Chart{copies}, Figures: []gridFigure{
		atMost(name, "source's uplink / size", 1.10, float64(d.Store.SourceCopies)),
		atMost(name, "downlink of the home that received most / size", 1.05, float64(d.Store.HomeCopies)),
		stated(name, "seconds until all have it", float64(d.Store.Seconds)),
		stated(name, "that / the uplink's time for one copy", float64(d.Store.Seconds)/ideal),
		stated(name, "plain rpc arguments: source's uplink / size", float64(d.Plain.SourceCopies)),
		stated(name, "plain rpc arguments: downlink of the home that received most / size", float64(d.Plain.HomeCopies)),
	}}, nil
}

// plainWork is how long a call takes whose argument is all that counts: so long
// that no worker does two.
const plainWork = 10 * time.Second

// plainArguments has the master call each worker with the same argument.
func (h *homes) plainArguments(ctx context.Context, size int64) (*shareStory, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+time.Duration(size/shareRate)*time.Second)
	defer cancel()
	s := h.grid
	file := filepath.Join(s.dir, "argument")
	sum, err := writeNoise(file, "argument", size)
	if err != nil {
		return nil, err
	}
	lines := filepath.Join(s.dir, "arguments")
	if err := os.WriteFile(lines, []byte(strings.Repeat(file+"\n", len(h.workers))), 0o600); err != nil {
		return nil, err
	}
	if _, err := s.grid(ctx, masterHost, "workers", "--wait", "20s"); err != nil {
		return nil, err
	}
	before, begun := h.uplinks(), time.Now()
	p, err := s.start(ctx, masterHost, s.programs.grid, "map", callFunction, "--dir", s.stateOf(masterHost), "--json",
		"--in", lines, "--files", "--out-dir", filepath.Join(s.dir, "out"))
	if err != nil {
		return nil, err
	}
	defer p.stop()
	failure := ""
	if _, err := last(p, func(l mapLine) { failure += l.Error }); err != nil {
		return nil, err
	}
	if failure != "" {
		return nil, fmt.Errorf("netsim: calls with plain arguments: %s", failure)
	}
	x := &shareStory{Size: size, Hash: sum, Seconds: cli.Number(time.Since(begun).Seconds()), Getters: []storyGetter{}, Uplinks: h.uplinksSince(before)}
	x.count()
	return x, nil
}

// movedObject is what runMove has found of one link.
type movedObject struct {
	Link   string     `json:"link"`
	Raw    cli.Number `json:"raw_bytes_per_second"`
	Put    cli.Number `json:"put_bytes_per_second"`
	Get    cli.Number `json:"get_bytes_per_second"`
	Before int64      `json:"rss_before_bytes"` // of the process with both nodes
	Half   int64      `json:"rss_peak_quarter_bytes"`
	Peak   int64      `json:"rss_peak_bytes"`
}

// fastLink is a wired LAN.
var fastLink = netsim.Link{Rate: 1_000_000_000}

// runMove measures put and get between two nodes beside a bare stream.
func runMove(ctx context.Context, b *gridBench) (*benchSection, error) {
	const name = "one-link"
	section := new(benchSection)
	var rows []movedObject
	for _, x := range []struct {
		name string
		link netsim.Link
	}{{"1 Gbit/s", fastLink}, {"veth", netsim.Link{}}} {
		m, err := b.move(ctx, x.name, x.link)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", x.name, err)
		}
		rows = append(rows, *m)
		get := float64(m.Get) / float64(m.Raw)
		figure := stated(name, x.name+": get / a bare ri2n stream", get)
		if x.link == fastLink {
			figure = atLeast(name, x.name+": get / a bare ri2n stream", 0.8, get)
		}
		section.Figures = append(section.Figures, figure,
			stated(name, x.name+": put / a bare ri2n stream", float64(m.Put)/float64(m.Raw)),
			stated(name, x.name+": bare stream, MB/s", float64(m.Raw)/1e6),
			stated(name, x.name+": put, MB/s", float64(m.Put)/1e6),
			stated(name, x.name+": get, MB/s", float64(m.Get)/1e6),
			stated(name, x.name+": most memory of both nodes with a quarter of it, MB", float64(m.Half)/1e6),
			stated(name, x.name+": most memory of both nodes with all of it, MB", float64(m.Peak)/1e6))
	}
	section.Data = rows
	return section, nil
}

// move puts an object on one node and gets it on the other, a quarter first.
func (b *gridBench) move(ctx context.Context, name string, link netsim.Link) (*movedObject, error) {
	p := new(callPair)
	defer p.close()
	nodes, err := p.startNodesOver(ctx, link)
	if err != nil {
		return nil, err
	}
	size := int64(b.store.moveMiB) << 20
	m := &movedObject{Link: name}
	raw, err := nodes[1].Listen("tcp", ":7022")
	if err != nil {
		return nil, err
	}
	b.progress("one-link: %s: a bare stream", name)
	rate, err := bareStream(ctx, raw, func() (net.Conn, error) {
		return nodes[0].DialContext(ctx, "tcp", nodes[1].PeerID().String()+":7022")
	}, size)
	if err != nil {
		return nil, err
	}
	m.Raw = cli.Number(rate)

	chunks, err := nodes[1].Listen("tcp", ":30")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "move-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	members := []swarm.Member{{Name: "getter", Site: "a"}, {Name: "putter", Site: "b"}}
	var stores [2]*store.Store
	for i, x := range members {
		s, err := store.Open(store.Config{Dir: filepath.Join(dir, x.Name), Key: store.Key{1}, Quota: 4 * size})
		if err != nil {
			return nil, err
		}
		defer s.Close()
		w := swarm.New(swarm.Config{
			Self: x.Name, Holdings: s.Holdings(), Members: func() []swarm.Member { return members },
			Dial: func(ctx context.Context, member string) (net.Conn, error) {
				if i == 1 {
					return nil, errors.New("the getter serves nothing")
				}
				return nodes[0].DialContext(ctx, "tcp", nodes[1].PeerID().String()+":30")
			},
		})
		defer w.Close()
		if i == 1 {
			go w.Serve(chunks) // ends with Close
		}
		s.Connect(w, nil)
		stores[i] = s
	}
	m.Before = residentBytes()
	for _, part := range []int64{4, 1} {
		b.progress("one-link: %s: put and get of %d MiB", name, size/part>>20)
		peak, stop := followMemory()
		begun := time.Now()
		noise := rand.NewChaCha8([32]byte{byte(part)})
		x, err := stores[1].Put(ctx, io.LimitReader(noise, size/part), store.PutOptions{})
		if err != nil {
			return nil, err
		}
		m.Put = cli.Number(float64(size/part) / time.Since(begun).Seconds())
		begun = time.Now()
		if _, err := stores[0].Get(ctx, x.ID, io.Discard, store.GetOptions{}); err != nil {
			return nil, err
		}
		m.Get = cli.Number(float64(size/part) / time.Since(begun).Seconds())
		stop()
		if part > 1 {
			m.Half = *peak
		}
		m.Peak = *peak
	}
	return m, nil
}

// bareStream returns the rate at which size bytes pass a connection.
func bareStream(ctx context.Context, ln net.Listener, dial func() (net.Conn, error), size int64) (bytesPerSecond float64, err error) {
	received := make(chan error, 1)
	go func() {
		in, err := ln.Accept()
		if err != nil {
			received <- err
			return
		}
		defer in.Close()
		n, err := io.Copy(io.Discard, in)
		if err == nil && n != size {
			err = fmt.Errorf("netsim: %d bytes of %d have come", n, size)
		}
		received <- err
	}()
	out, err := dial()
	if err != nil {
		ln.Close()
		return 0, errors.Join(err, <-received)
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { out.Close() })()
	begun := time.Now()
	buf := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(buf)) {
		if _, err := out.Write(buf); err != nil {
			return 0, err
		}
	}
	if half, ok := out.(interface{ CloseWrite() error }); ok {
		err = half.CloseWrite()
	}
	err = errors.Join(err, <-received)
	return float64(size) / time.Since(begun).Seconds(), err
}

// residentBytes returns how much memory this process has now, zero where that is not known.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// followMemory follows residentBytes until stop is called; only then is peak read.
func followMemory() (peak *int64, stop func()) {
	peak = new(int64)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			*peak = max(*peak, residentBytes())
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return peak, func() { close(done); running.Wait() }
}

// manyObjects is what runManyObjects has found.
type manyObjects struct {
	Objects  int        `json:"objects"`
	Puts     cli.Number `json:"puts_per_second"`
	HasNs    cli.Number `json:"look_ns"`
	P50      cli.Number `json:"get_p50_us"`
	P99      cli.Number `json:"get_p99_us"`
	Index    int64      `json:"index_bytes"`
	Segments int        `json:"segments"`
}

const (
	objectBytes = 4096
	putters     = 128
	mostLookups = 100_000
)

// runManyObjects puts many small objects, each acknowledged, and looks them up.
func runManyObjects(ctx context.Context, b *gridBench) (*benchSection, error) {
	dir := filepath.Join(b.dir, "many")
	defer os.RemoveAll(dir)
	s, err := store.Open(store.Config{Dir: dir, Key: store.Key{1}, Quota: 64 << 30})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	n := b.store.objects
	b.progress("many-objects: %d objects are put", n)
	ids := make([]chunk.ID, n)
	failures := make([]error, putters)
	begun := time.Now()
	var running sync.WaitGroup
	for g := range putters {
		running.Go(func() {
			content := make([]byte, objectBytes)
			r := rand.NewChaCha8([32]byte{byte(g)})
			for i := g; i < n && failures[g] == nil; i += putters {
				r.Read(content)
				x, err := s.PutBytes(ctx, content, store.PutOptions{})
				ids[i], failures[g] = x.ID, err
			}
		})
	}
	running.Wait()
	took := time.Since(begun)
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	status := s.Holdings().Status()
	d := manyObjects{Objects: n, Puts: cli.Number(float64(n) / took.Seconds()), Index: status.Index, Segments: status.Segments}
	b.progress("many-objects: lookups")
	r := rand.New(rand.NewPCG(1, 2))
	times := make([]time.Duration, min(n, mostLookups))
	for i := range times {
		begun := time.Now()
		x, err := s.GetBytes(ctx, ids[r.IntN(n)], objectBytes)
		times[i] = time.Since(begun)
		if err != nil {
			return nil, err
		}
		if len(x) != objectBytes {
			return nil, fmt.Errorf("netsim: an object of %d bytes has %d", objectBytes, len(x))
		}
	}
	begun = time.Now()
	for i := range times {
		if !s.Holdings().Has(ids[i]) {
			return nil, fmt.Errorf("netsim: object %v is lost", ids[i])
		}
	}
	d.HasNs = cli.Number(float64(time.Since(begun).Nanoseconds()) / float64(len(times)))
	slices.Sort(times)
	at := func(q int) cli.Number { return cli.Number(float64(times[len(times)*q/100].Nanoseconds()) / 1000) }
	d.P50, d.P99 = at(50), at(99)
	us := make([]float64, 0, 1000)
	for i := 0; i < len(times); i += max(len(times)/1000, 1) {
		us = append(us, float64(times[i].Nanoseconds())/1000)
	}
	const name = "many-objects"
	return &benchSection{
		Data: d, charts: []chart.Chart{{Title: "gets of 4 KiB, cumulative", XLabel: "microseconds", YLabel: "part of all", LogX: true, Series: []chart.Series{chart.Distribution("get", us)}}},
		Figures: []gridFigure{
			stated(name, "objects of 4 KiB", float64(n)), stated(name, "puts/s, 128 at a time", float64(d.Puts)),
			stated(name, "look whether one is held, ns", float64(d.HasNs)),
			stated(name, "get: p50 in us", float64(d.P50)), stated(name, "get: p99 in us", float64(d.P99)),
			stated(name, "index in memory, bytes an object", float64(d.Index)/float64(n)), stated(name, "files for them", float64(d.Segments)),
		},
	}, nil
}

// objectKey is the name of the i-th durable object.
func objectKey(i int) (key [32]byte) {
	binary.BigEndian.PutUint64(key[:], uint64(i)+1)
	return key
}
