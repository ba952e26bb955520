// Package chart draws line charts as SVG elements that stand in a page of HTML
// without any other file.
package chart

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// A Series is one line. X and Y have the same length; points that are not
// numbers are left out.
type Series struct {
	Name string
	X, Y []float64
}

// A Chart is a set of lines over common axes. Both axes begin at zero or at
// the least value, whichever is less; LogX has the x-axis logarithmic, for
// which points at or below zero are left out.
type Chart struct {
	Title          string
	XLabel, YLabel string
	LogX           bool
	Series         []Series
}

const (
	width, height       = 640, 300
	left, right         = 62, 12
	top, bottom         = 30, 42
	plotWidth           = width - left - right
	plotHeight          = height - top - bottom
	legendLine          = 16
	maxPoints           = 2000 // of a line; more are thinned out
	tickCount           = 5
	averageLetter       = 7
	legendMark, spacing = 14, 12
)

// colors are told apart also without red and green.
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"}

// A span is the range of one axis.
type span struct {
	low, high float64
	log       bool
}

// at returns where v lies, from 0 to 1.
func (s span) at(v float64) float64 {
	if s.log {
		return (math.Log(v) - math.Log(s.low)) / (math.Log(s.high) - math.Log(s.low))
	}
	return (v - s.low) / (s.high - s.low)
}

func usable(v float64, log bool) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!log || v > 0)
}

// spanOf returns the range of values, never an empty one.
func spanOf(values [][]float64, log bool) span {
	s := span{math.Inf(1), math.Inf(-1), log}
	for _, vs := range values {
		for _, v := range vs {
			if usable(v, log) {
				s.low, s.high = min(s.low, v), max(s.high, v)
			}
		}
	}
	switch {
	case math.IsInf(s.low, 0):
		s.low, s.high = 0, 1
		if log {
			s.low, s.high = 1, 10
		}
	case log && s.low == s.high:
		s.low, s.high = s.low/2, s.high*2
	case !log:
		s.low = min(0, s.low)
		if s.low == s.high {
			s.high = s.low + 1
		}
		step := stepOf(s.high - s.low)
		s.high = math.Ceil(s.high/step) * step
	}
	return s
}

// stepOf returns a round distance of ticks for a range.
func stepOf(size float64) float64 {
	raw := size / tickCount
	base := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*base {
			return m * base
		}
	}
	return 10 * base
}

// ticks returns where an axis has marks.
func (s span) ticks() []float64 {
	var ts []float64
	if s.log {
		for e := math.Floor(math.Log10(s.low)); e <= math.Ceil(math.Log10(s.high)); e++ {
			for _, m := range []float64{1, 2, 5} {
				if v := m * math.Pow(10, e); v >= s.low && v <= s.high {
					ts = append(ts, v)
				}
			}
		}
		return ts
	}
	step := stepOf(s.high - s.low)
	for i := range 2 * tickCount {
		v := math.Ceil(s.low/step)*step + float64(i)*step
		if v > s.high+step/1e6 {
			break
		}
		ts = append(ts, v)
	}
	return ts
}

// number writes v shortly.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// SVG returns the chart as one svg element.
func (c Chart) SVG() string {
	var xs, ys [][]float64
	for _, s := range c.Series {
		xs, ys = append(xs, s.X), append(ys, s.Y)
	}
	x, y := spanOf(xs, c.LogX), spanOf(ys, false)
	legend := c.legend()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%d" role="img" font-family="sans-serif" font-size="12">`,
		width, height+len(legend)*legendLine, height+len(legend)*legendLine)
	fmt.Fprintf(&b, `<title>%s</title>`, html.EscapeString(c.Title))
	fmt.Fprintf(&b, `<text x="%d" y="18" font-weight="bold">%s</text>`, left, html.EscapeString(c.Title))
	c.axes(&b, x, y)
	for i, s := range c.Series {
		points(&b, s, x, y, colors[i%len(colors)], i/len(colors) > 0)
	}
	for i, entries := range legend {
		b.WriteString(entries.at(height + i*legendLine))
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// axes draws frame, grid, ticks and labels.
func (c Chart) axes(b *strings.Builder, x, y span) {
	for _, v := range y.ticks() {
		at := float64(top) + plotHeight*(1-y.at(v))
		fmt.Fprintf(b, `<path d="M%d %.1fh%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`, left, at, plotWidth, left-6, at+4, number(v))
	}
	for _, v := range x.ticks() {
		at := float64(left) + plotWidth*x.at(v)
		fmt.Fprintf(b, `<path d="M%.1f %dv%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`, at, top, plotHeight, at, top+plotHeight+16, number(v))
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#666"/>`, left, top, plotWidth, plotHeight)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`, left+plotWidth/2, height-8, html.EscapeString(c.XLabel))
	fmt.Fprintf(b, `<text transform="translate(14 %d) rotate(-90)" text-anchor="middle">%s</text>`, top+plotHeight/2, html.EscapeString(c.YLabel))
}

// points draws one line; dashed tells a color's second use.
func points(b *strings.Builder, s Series, x, y span, color string, dashed bool) {
	n := min(len(s.X), len(s.Y))
	every := max(1, n/maxPoints)
	var path strings.Builder
	for i := 0; i < n; i += every {
		if !usable(s.X[i], x.log) || !usable(s.Y[i], false) {
			continue
		}
		verb := "L"
		if path.Len() == 0 {
			verb = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", verb, float64(left)+plotWidth*x.at(s.X[i]), float64(top)+plotHeight*(1-y.at(s.Y[i])))
	}
	if path.Len() == 0 {
		return
	}
	dash := ""
	if dashed {
		dash = ` stroke-dasharray="5 3"`
	}
	fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.6"%s><title>%s</title></path>`, path.String(), color, dash, html.EscapeString(s.Name))
}

// A legendRow is one line of the legend.
type legendRow []legendEntry

type legendEntry struct {
	x     int
	name  string
	color string
}

// legend breaks the names of the series into lines.
func (c Chart) legend() []legendRow {
	var rows []legendRow
	x := width
	for i, s := range c.Series {
		size := legendMark + spacing + averageLetter*len(s.Name)
		if x+size > width {
			rows = append(rows, nil)
			x = left
		}
		last := len(rows) - 1
		rows[last] = append(rows[last], legendEntry{x, s.Name, colors[i%len(colors)]})
		x += size
	}
	return rows
}

func (r legendRow) at(y int) string {
	var b strings.Builder
	for _, e := range r {
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d">%s</text>`, e.x, y, e.color, e.x+legendMark, y+10, html.EscapeString(e.name))
	}
	return b.String()
}

// Distribution returns the cumulative distribution of values as a line: how
// large a part is at most x. values must be sorted.
func Distribution(name string, values []float64) Series {
	s := Series{Name: name}
	for i, v := range values {
		s.X = append(s.X, v)
		s.Y = append(s.Y, float64(i+1)/float64(len(values)))
	}
	return s
}
