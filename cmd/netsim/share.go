package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// The story of common data, as demo-rpc tells it and bench-grid measures it: the
// master puts what all workers need, and all get it at once.

const (
	commonName = "common"
	// warmBytes are shared before, so that all have met: one chunk.
	warmBytes = 300_000
	// shareRate is how slowly common data may come before the story fails, in
	// bytes a second.
	shareRate = 100_000
)

// A shareStory is how the common data went.
type shareStory struct {
	Size    int64         `json:"size_bytes"`
	Hash    string        `json:"sha256"` // of what each has got
	Seconds cli.Number    `json:"seconds"`
	Getters []storyGetter `json:"getters"`
	Uplinks []storyUplink `json:"uplinks"`
	// Copies are bytes divided by the size: those that left the office, and those
	// that came to the home that received most.
	SourceCopies cli.Number `json:"source_copies"`
	HomeCopies   cli.Number `json:"home_copies"`
}

type storyGetter struct {
	Name    string     `json:"name"`
	Home    string     `json:"home"`
	Seconds cli.Number `json:"seconds"`
}

// getDocument is what the story reads of "instantgrid/store-get/1".
type getDocument struct {
	File    string     `json:"file"`
	Seconds cli.Number `json:"seconds"`
}

// tellShare puts size bytes on the master, and has all workers get them at once.
func (h *homes) tellShare(ctx context.Context, size int64, say func(string, ...any)) (*shareStory, error) {
	say("\n%.0f MB of common data for %d workers in %d homes", float64(size)/1e6, len(h.workers), workHomes)
	if err := h.awaitStores(ctx); err != nil {
		return nil, err
	}
	if _, err := h.share(ctx, "warm", warmBytes, func(string, ...any) {}); err != nil {
		return nil, err
	}
	s, err := h.share(ctx, commonName, size, say)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	if err := s.write(&text); err != nil {
		return nil, err
	}
	say("\n%s", strings.TrimRight(text.String(), "\n"))
	say("\n  %d hashes equal, sha256 %s...; %.1f s; %.2f copies left the office, at most %.2f came to a home",
		len(s.Getters), s.Hash[:16], float64(s.Seconds), float64(s.SourceCopies), float64(s.HomeCopies))
	return s, nil
}

// share does it once.
func (h *homes) share(ctx context.Context, name string, size int64, say func(string, ...any)) (*shareStory, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(size/shareRate)*time.Second)
	defer cancel()
	file := filepath.Join(h.grid.dir, name+".bin")
	sum, err := writeNoise(file, name, size)
	if err != nil {
		return nil, err
	}
	defer os.Remove(file)
	if _, err := h.grid.grid(ctx, masterHost, "put", file, "--name", name, "--pin"); err != nil {
		return nil, err
	}
	say("  master$ grid put %s.bin --name %s --pin", name, name)
	s := &shareStory{Size: size, Hash: sum, Getters: make([]storyGetter, len(h.workers))}
	say("  all$ grid get %s", name)
	before := h.uplinks()
	begun := time.Now()
	failures := make([]error, len(h.workers))
	var all sync.WaitGroup
	for i, w := range h.workers {
		all.Go(func() {
			took, err := h.get(ctx, w.name, name, sum)
			s.Getters[i], failures[i] = storyGetter{w.name, w.home, cli.Number(took)}, err
		})
	}
	all.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	s.Seconds = cli.Number(time.Since(begun).Round(time.Millisecond).Seconds())
	s.Uplinks = h.uplinksSince(before)
	s.count()
	return s, nil
}

// count computes the copies.
func (s *shareStory) count() {
	s.SourceCopies = cli.Number(float64(s.Uplinks[0].Sent) / float64(s.Size))
	for _, u := range s.Uplinks[1:] {
		s.HomeCopies = max(s.HomeCopies, cli.Number(float64(u.Received)/float64(s.Size)))
	}
}

// get has a worker get the data, and compares them.
func (h *homes) get(ctx context.Context, who, name, sum string) (seconds float64, err error) {
	out := filepath.Join(h.grid.dir, who+"."+name)
	defer os.Remove(out)
	p, err := h.grid.start(ctx, who, h.grid.programs.grid, "get", name, "--json", "-o", out, "--dir", h.grid.stateOf(who))
	if err != nil {
		return 0, err
	}
	defer p.stop()
	d, err := last(p, func(getDocument) {})
	if err != nil {
		return 0, err
	}
	f, err := os.Open(out)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return 0, err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return 0, &cli.Error{Object: "demo, the data on " + who, Cause: "their hash is " + got + ", not " + sum, Next: "run it again: netsim demo-rpc", Code: cli.ExitIntegrity}
	}
	return float64(d.Seconds), nil
}

// writeNoise writes size bytes that nothing makes smaller, and returns their hash.
func writeNoise(file, seed string, size int64) (sum string, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	rng := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	if _, err := io.CopyN(io.MultiWriter(f, hash), rng, size); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), f.Close()
}

// write prints the tables of a story.
func (s *shareStory) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  worker\thome\tgot it after")
	for _, g := range s.Getters {
		fmt.Fprintf(t, "  %s\t%s\t%.1f s\n", g.Name, g.Home, float64(g.Seconds))
	}
	fmt.Fprintln(t, "\t\t")
	writeUplinks(t, "", s.Uplinks)
	return t.Flush()
}

// writeUplinks prints a row for each home, its columns behind so many tabs.
func writeUplinks(w io.Writer, tabs string, list []storyUplink) {
	fmt.Fprintf(w, "  uplink of%s\tsent\treceived\n", tabs)
	for _, u := range list {
		fmt.Fprintf(w, "  %s%s\t%.2f MB\t%.2f MB\n", u.Home, tabs, float64(u.Sent)/1e6, float64(u.Received)/1e6)
	}
}
