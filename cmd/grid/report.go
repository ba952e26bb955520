package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// transferDocument ends a send or a recv: "instantgrid/send/1" and
// "instantgrid/recv/1" with event "done". The clocks start when the peer is
// dialed, once the rendezvous is reached, or, at the side that is dialed, when
// the session is there.
type transferDocument struct {
	Event          string      `json:"event"`
	Name           string      `json:"name"`
	Path           string      `json:"file"` // at this end
	Peer           ri2n.PeerID `json:"peer"`
	Bytes          int64       `json:"bytes"`
	ResumedFrom    int64       `json:"resumed_from"` // bytes that an earlier run had moved
	SHA256         string      `json:"sha256"`
	Seconds        cli.Number  `json:"seconds"`
	BytesPerSecond cli.Number  `json:"bytes_per_second"` // of what this run moved
	FirstByteMS    *cli.Number `json:"first_byte_ms"`    // null: nothing needed to move
	DirectMS       *cli.Number `json:"direct_ms"`        // null: never direct
	PathKind       string      `json:"path"`             // at the end
	Reason         string      `json:"reason,omitempty"` // why it is not direct
	Advice         string      `json:"advice,omitempty"` // what would change that
}

// progressDocument is a line of --watch --json: event "progress".
type progressDocument struct {
	Event    string     `json:"event"`
	Name     string     `json:"name"`
	Bytes    int64      `json:"bytes"` // acknowledged by the receiver
	Size     int64      `json:"size"`
	Seconds  cli.Number `json:"seconds"`
	PathKind string     `json:"path"`
	Reason   string     `json:"reason,omitempty"`
}

// progressInterval is the pause between two lines of --watch --json.
const progressInterval = 250 * time.Millisecond

// A report follows one transfer over all of its connections and shows it: a
// bar on a terminal, lines for programs, and the result.
type report struct {
	cmd   *cobra.Command
	name  string // send or recv
	watch bool

	mu        sync.Mutex // guards what follows
	begun     time.Time  // zero: nobody is there yet
	peer      ri2n.PeerID
	path      overlay.PathStatus
	offer     transfer.Offer
	resumed   int64 // where the first connection began; negative: none yet
	moved     int64 // bytes that went over the network in this run
	from      int64 // where this connection began
	done      int64
	firstByte time.Duration // zero: not yet
	direct    time.Duration // zero: not yet
	bar       *cli.Progress
	lastLine  time.Time
	lastStep  time.Time
}

func newReport(cmd *cobra.Command, name string, watch bool) *report {
	return &report{cmd: cmd, name: name, watch: watch && cli.JSON(cmd), resumed: -1}
}

// begin starts the clocks at the given time, unless they run.
func (r *report) begin(peer ri2n.PeerID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peer = peer
	if r.begun.IsZero() {
		r.begun = at
	}
}

// observer returns what package transfer tells about one connection.
func (r *report) observer() transfer.Observer {
	return transfer.Observer{Begin: r.connected, Progress: r.progress}
}

func (r *report) connected(o transfer.Offer, start int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved += r.done - r.from
	r.offer, r.from, r.done = o, start, start
	if r.resumed < 0 {
		r.resumed = start
	}
	if r.bar == nil {
		r.bar = cli.NewProgress(r.cmd.ErrOrStderr(), o.Name, o.Size, start)
	}
	r.bar.Set(start)
	r.note()
}

func (r *report) progress(done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.firstByte == 0 && done > r.from {
		r.firstByte = now.Sub(r.begun)
	}
	r.done, r.lastStep = done, now
	r.bar.Set(done)
	if r.watch && (now.Sub(r.lastLine) >= progressInterval || done == r.offer.Size) {
		r.lastLine = now
		// A reader that is gone is no reason to stop the transfer.
		_ = cli.PrintJSONLine(r.cmd, r.name, progressDocument{
			Event: "progress", Name: r.offer.Name, Bytes: done, Size: r.offer.Size,
			Seconds:  cli.Number(now.Sub(r.begun).Seconds()),
			PathKind: r.path.Kind, Reason: r.path.Reason,
		})
	}
}

// lastMove returns when the last bytes were acknowledged.
func (r *report) lastMove() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastStep
}

// follow notes the path to the peer until ctx ends.
func (r *report) follow(ctx context.Context, node *overlay.Node, peer *overlay.Peer) {
	events := node.Events(ctx)
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		r.onPath(time.Now(), peer.Status().Path)
		select {
		case e, open := <-events:
			if !open {
				return
			}
			if e.Peer == peer.ID() && e.Path != nil {
				r.onPath(e.Time, *e.Path)
			}
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *report) onPath(at time.Time, p overlay.PathStatus) {
	if p.Kind == "" {
		return // between two sessions
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := p.Kind != r.path.Kind || p.Reason != r.path.Reason
	r.path = p
	if p.Kind == overlay.KindDirect && r.direct == 0 && !r.begun.IsZero() {
		r.direct = max(at.Sub(r.begun), time.Microsecond)
	}
	if changed {
		r.note()
	}
}

// note shows the path at the end of the bar; the mutex is held.
func (r *report) note() {
	if r.bar == nil {
		return
	}
	if r.path.Kind == overlay.KindDirect && r.direct > 0 {
		r.bar.Note("direct after " + secondsText(r.direct))
	} else if r.path.Kind != "" {
		r.bar.Note(pathText(r.path))
	}
}

// closeBar ends the bar where it stands. It may be called twice.
func (r *report) closeBar() {
	r.mu.Lock()
	bar := r.bar
	r.mu.Unlock()
	if bar != nil {
		bar.Close()
	}
}

// print shows the result.
func (r *report) print(result transfer.Result) error {
	r.closeBar()
	r.mu.Lock()
	defer r.mu.Unlock()
	took := time.Since(r.begun)
	moved := r.moved + r.done - r.from
	doc := transferDocument{
		Event: "done", Name: result.Name, Path: result.Path, Peer: r.peer,
		Bytes: result.Size, ResumedFrom: max(r.resumed, 0), SHA256: result.Sum.String(),
		Seconds: cli.Number(took.Seconds()), BytesPerSecond: cli.Number(float64(moved) / took.Seconds()),
		PathKind: r.path.Kind, Reason: r.path.Reason, Advice: r.path.Advice,
	}
	if r.firstByte > 0 {
		ms := milliseconds(r.firstByte)
		doc.FirstByteMS = &ms
	}
	if r.direct > 0 {
		ms := milliseconds(r.direct)
		doc.DirectMS = &ms
	}
	if cli.JSON(r.cmd) {
		return cli.PrintJSON(r.cmd, r.name, doc)
	}
	verb := "sent"
	if r.name == "recv" {
		verb = "received"
	}
	w := r.cmd.OutOrStdout()
	fmt.Fprintf(w, "%s %s: %s in %s, %s/s", verb, result.Name, sizeText(result.Size), secondsText(took), sizeText(int64(float64(moved)/took.Seconds())))
	if doc.ResumedFrom > 0 {
		fmt.Fprintf(w, ", resumed at %s", sizeText(doc.ResumedFrom))
	}
	if r.firstByte > 0 {
		fmt.Fprintf(w, ", first byte after %s", secondsText(r.firstByte))
	}
	fmt.Fprintf(w, "\npath: %s\n", r.pathSummary())
	_, err := fmt.Fprintf(w, "sha256: %s\n", doc.SHA256)
	return err
}

// pathSummary says how the data went; the mutex is held.
func (r *report) pathSummary() string {
	switch {
	case r.path.Kind == "":
		return "unknown"
	case r.path.Kind == overlay.KindDirect:
		return fmt.Sprintf("%s after %s", pathText(r.path), secondsText(r.direct))
	case r.path.Advice != "":
		return pathText(r.path) + "; " + r.path.Advice
	}
	return pathText(r.path)
}
