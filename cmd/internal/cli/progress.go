package cli

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A Progress shows how much of a transfer is done: name, bar, bytes, rate,
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
	p := new(Progress)
	if !IsTerminal(w) {
		return p
	}
	p.container = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
	p.bar = p.container.New(total,
		mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(
			decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"),
			decor.Name("  "),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f"),
			decor.Name("  "),
			decor.AverageETA(decor.ET_STYLE_GO),
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
		p.bar.DecoratorAverageAdjust(time.Now())
	}
	return p
}

// Set says how many bytes are done: acknowledged by the other side, not queued.
func (p *Progress) Set(done int64) {
	if p.bar != nil {
		p.bar.SetCurrent(done)
	}
}

// Note replaces the text at the end of the line.
func (p *Progress) Note(text string) { p.note.Store(&text) }

// Close ends the bar where it stands and waits until the terminal has its last
// line. It may be called twice.
func (p *Progress) Close() {
	if p.container == nil {
		return
	}
	p.bar.Abort(false)
	p.container.Wait()
}
