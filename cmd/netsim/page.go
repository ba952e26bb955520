package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
)

//go:embed page.html
var pageText string

// A pageCell is one square of the heat map.
type pageCell struct {
	Class string // of the style sheet
	Text  string
	Title string // what the pointer shows
}

// A pageRow is the squares of one NAT type.
type pageRow struct {
	Name  string
	Cells []pageCell
}

// writePage writes d as an HTML page that needs nothing else.
func (d matrixDocument) writePage(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{"share": share}).Parse(pageText)
	if err != nil {
		return err
	}
	names, rows := d.heatMap()
	return t.Execute(w, map[string]any{
		"Document": d,
		"Summary":  d.Summary,
		"LastSeed": d.Seed + uint64(d.Seeds) - 1,
		"Wall":     float64(d.WallSeconds),
		"Names":    names,
		"Rows":     rows,
		"Reasons":  d.reasons(),
	})
}

// heatMap returns the types in the order of the rows, and a square for each
// two of them. Squares of pairs that were not run are empty.
func (d matrixDocument) heatMap() (names []string, rows []pageRow) {
	cells := make(map[[2]string]pageCell)
	for _, r := range d.Rows {
		for _, name := range []string{r.A, r.B} {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		c := r.square()
		cells[[2]string{r.A, r.B}], cells[[2]string{r.B, r.A}] = c, c
	}
	for _, a := range names {
		row := pageRow{Name: a}
		for _, b := range names {
			row.Cells = append(row.Cells, cells[[2]string{a, b}])
		}
		rows = append(rows, row)
	}
	return names, rows
}

// square returns a row's square: the share of its runs that were direct, or
// what went wrong.
func (r matrixRow) square() pageCell {
	c := pageCell{Title: fmt.Sprintf("%s with %s: %d of %d runs direct, %d relayed", r.A, r.B, r.Direct, r.Runs, r.Relayed)}
	if !math.IsNaN(float64(r.FirstByteMS)) {
		c.Title += fmt.Sprintf("; first byte after %.0f ms", float64(r.FirstByteMS))
	}
	if !math.IsNaN(float64(r.DirectMS)) {
		c.Title += fmt.Sprintf("; direct after %.0f ms", float64(r.DirectMS))
	}
	c.Title += fmt.Sprintf("; at most %d probes", r.ProbesMax)
	if r.Reason != "" {
		c.Title += "; " + r.Reason
	}
	percent := 0
	if r.Runs > 0 {
		percent = 100 * r.Direct / r.Runs
	}
	switch {
	case r.path() == "failed" || r.Completed < r.Runs:
		c.Class, c.Text = "failed", "failed"
	case percent == 100:
		c.Class, c.Text = "direct", "100"
	case percent >= 90:
		c.Class, c.Text = "most", fmt.Sprint(percent)
	case percent > 0:
		c.Class, c.Text = "some", fmt.Sprint(percent)
	default:
		c.Class, c.Text = "relay", "0"
	}
	return c
}

// A reasonRow says in how many runs a reason kept a pair from a direct path.
type reasonRow struct {
	Reason string
	Runs   int
}

// reasons returns why runs were relayed, the most frequent reason first.
func (d matrixDocument) reasons() (rows []reasonRow) {
	counts := make(map[string]int)
	for _, r := range d.Rows {
		for reason, n := range r.Reasons {
			counts[reason] += n
		}
	}
	for reason, n := range counts {
		rows = append(rows, reasonRow{reason, n})
	}
	slices.SortFunc(rows, func(a, b reasonRow) int {
		if a.Runs != b.Runs {
			return b.Runs - a.Runs
		}
		if a.Reason < b.Reason {
			return -1
		}
		return 1
	})
	return rows
}
