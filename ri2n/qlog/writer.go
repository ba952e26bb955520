package qlog

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Options configure a [Writer]. The zero value is for short runs of a few
// sessions.
type Options struct {
	// Title says what is traced. Empty: "ri2n".
	Title string

	// NoPackets leaves out the events of single packets, which are most of a
	// file, save losses.
	NoPackets bool

	// MaxBytes bounds the file. Further events are dropped and counted. Zero
	// means 1 GiB; a negative value sets no bound.
	MaxBytes int64

	// Queue is how many events may wait for the file. Zero means 8192.
	Queue int
}

// A Writer writes the events of any number of sessions. It has one goroutine,
// which Close ends.
type Writer struct {
	opt     Options
	queue   chan entry
	stop    chan struct{}
	ended   chan struct{}
	stopped sync.Once
	dropped atomic.Uint64
	groups  atomic.Uint64

	// The goroutine's, and Close's after it.
	begun   time.Time
	out     *bufio.Writer
	file    io.Closer // nil: none of ours
	written int64
	told    uint64 // dropped events that have a record
	err     error
}

// An entry is one event on its way to the file.
type entry struct {
	at    time.Time
	group uint64
	event ri2n.TraceEvent
}

// NewWriter returns a writer to w, to which a header goes at once.
func NewWriter(w io.Writer, opt Options) *Writer {
	if opt.Title == "" {
		opt.Title = "ri2n"
	}
	if opt.MaxBytes == 0 {
		opt.MaxBytes = 1 << 30
	}
	if opt.Queue <= 0 {
		opt.Queue = 8192
	}
	q := &Writer{
		opt:   opt,
		queue: make(chan entry, opt.Queue),
		stop:  make(chan struct{}),
		ended: make(chan struct{}),
		begun: time.Now(),
		out:   bufio.NewWriterSize(w, 64<<10),
	}
	q.record(header(q.opt.Title, q.begun))
	q.flush()
	go q.run()
	return q
}

// Create makes or empties the file name, which only its owner may read, and
// returns a writer to it.
func Create(name string, opt Options) (*Writer, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("qlog: create trace: %w", err)
	}
	w := NewWriter(f, opt)
	w.file = f
	return w, nil
}

// Trace returns the tracer of one session: the function for ri2n.Config.Trace.
func (w *Writer) Trace(*ri2n.Session) ri2n.Tracer {
	return tracer{w, w.groups.Add(1)}
}

// Dropped returns how many events found no room, in the queue or in the file.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Close writes what waits, closes the file that Create made, and returns the
// first error of writing. Events that come afterwards are dropped.
func (w *Writer) Close() error {
	w.stopped.Do(func() { close(w.stop) })
	<-w.ended
	return w.err
}

// A tracer is the ri2n.Tracer of one session.
type tracer struct {
	w     *Writer
	group uint64
}

// Trace implements ri2n.Tracer.
func (t tracer) Trace(now time.Time, e ri2n.TraceEvent) {
	if t.w.opt.NoPackets {
		switch e.(type) {
		case ri2n.TracePacketSent, ri2n.TracePacketReceived:
			return
		}
	}
	select {
	case t.w.queue <- entry{now, t.group, e}:
	default:
		t.w.dropped.Add(1)
	}
}

func (w *Writer) run() {
	defer close(w.ended)
	for {
		select {
		case e := <-w.queue:
			w.write(e)
			continue
		default:
			w.flush()
		}
		select {
		case e := <-w.queue:
			w.write(e)
		case <-w.stop:
			w.finish()
			return
		}
	}
}

// finish writes what is in the queue and ends the file.
func (w *Writer) finish() {
	for range len(w.queue) {
		w.write(<-w.queue)
	}
	w.tellDropped(time.Now())
	w.flush()
	if w.file != nil {
		if err := w.file.Close(); w.err == nil {
			w.err = err
		}
	}
}

func (w *Writer) write(e entry) {
	w.tellDropped(e.at)
	name, data := describe(e.event)
	if name == "" {
		return
	}
	w.event(e.at, name, strconv.FormatUint(e.group, 10), data)
}

// tellDropped says in the file how many events it lacks here.
func (w *Writer) tellDropped(at time.Time) {
	if n := w.dropped.Load(); n != w.told {
		more := n - w.told
		w.told = n
		w.event(at, NameEventsDropped, "", EventsDropped{Count: more})
	}
}

func (w *Writer) event(at time.Time, name, group string, data any) {
	if w.opt.MaxBytes > 0 && w.written >= w.opt.MaxBytes {
		w.told++ // its number has no room either
		w.dropped.Add(1)
		return
	}
	w.record(outRecord{Time: milliseconds(at.Sub(w.begun)), Name: name, Group: group, Data: data})
}

// record appends one record: RS, JSON, LF (RFC 7464).
func (w *Writer) record(v any) {
	if w.err != nil {
		return
	}
	b, err := appendRecord(nil, v)
	if err == nil {
		_, err = w.out.Write(b)
		w.written += int64(len(b))
	}
	w.err = err
}

func (w *Writer) flush() {
	if err := w.out.Flush(); w.err == nil && err != nil {
		w.err = fmt.Errorf("qlog: write trace: %w", err)
	}
}
