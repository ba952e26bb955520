package cli

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A Progress shows how much of something is done: name, bar, count, rate,
// remaining time and a note such as "relay" or "direct". Off a terminal it
// writes nothing at all. Its methods may be called from several goroutines.
type Progress struct {
	container *mpb.Progress // nil off a terminal
	bar       *mpb.Bar
	note      atomic.Pointer[string]
}

// NewProgress starts a bar on w, usually the standard error of a command, for
// total bytes of which done are there already (a resumed transfer). End it
// with Close.
func NewProgress(w io.Writer, name string, total, done int64) *Progress {
	return newProgress(w, name, total, done, decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"), paceText)
}

// NewTally is NewProgress for things that are counted rather than bytes.
func NewTally(w io.Writer, name string, total, done int64) *Progress {
	return newProgress(w, name, total, done, decor.CountersNoUnit("%d / %d"), tallyText)
}

func newProgress(w io.Writer, name string, total, done int64, counters decor.Decorator, pace func(moved, left int64, elapsed time.Duration) string) *Progress {
	p := new(Progress)
	if !IsTerminal(w) {
		return p
	}
	start := time.Now()
	p.container = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
	p.bar = p.container.New(total,
		mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(
			counters,
			decor.Name("  "),
			decor.Any(func(now decor.Statistics) string {
				return pace(now.Current-done, now.Total-now.Current, time.Since(start))
			}),
			decor.Any(func(decor.Statistics) string {
				if note := p.note.Load(); note != nil {
					return "  " + *note
				}
				return ""
			}),
		),
	)
	if done > 0 {
		p.bar.SetRefill(done)
		p.bar.SetCurrent(done)
	}
	return p
}

// Set says how much is done: acknowledged by the other side, not queued.
func (p *Progress) Set(done int64) {
	if p.bar != nil {
		p.bar.SetCurrent(done)
	}
}

// Note replaces the text at the end of the line.
func (p *Progress) Note(text string) { p.note.Store(&text) }

// Above returns what writes whole lines to w, above the bar where there is one
// and w is a terminal as well. It may be used until Close.
func (p *Progress) Above(w io.Writer) io.Writer {
	if p.container != nil && IsTerminal(w) {
		return p.container
	}
	return w
}

// Close ends the bar where it stands and waits until the terminal has its last
// line. It may be called twice.
func (p *Progress) Close() {
	if p.container == nil {
		return
	}
	p.bar.Abort(false)
	p.container.Wait()
}

// paceText says how fast moved bytes went in the given time, and how long the
// bytes that are left take at that rate. What an earlier run had moved does not
// count.
func paceText(moved, left int64, elapsed time.Duration) string {
	if moved <= 0 || elapsed <= 0 {
		return ""
	}
	perSecond := float64(moved) / elapsed.Seconds()
	text := fmt.Sprintf("%.1f MiB/s", perSecond/(1<<20))
	if left > 0 {
		text += "  " + time.Duration(float64(left)/perSecond*float64(time.Second)).Round(time.Second).String()
	}
	return text
}

// tallyText is paceText for things that are counted.
func tallyText(done, left int64, elapsed time.Duration) string {
	if done <= 0 || elapsed <= 0 {
		return ""
	}
	each := elapsed.Seconds() / float64(done)
	text := fmt.Sprintf("%.1f/s", 1/each)
	if each > 1 {
		text = fmt.Sprintf("%.1f s each", each)
	}
	if left > 0 {
		text += "  " + time.Duration(each*float64(left)*float64(time.Second)).Round(time.Second).String() + " left"
	}
	return text
}
