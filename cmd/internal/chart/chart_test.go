package chart

import (
	"encoding/xml"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// elements parses an SVG and counts its elements by name.
func elements(t *testing.T, svg string) map[string]int {
	t.Helper()
	count := make(map[string]int)
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return count
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
}

func TestSVGIsWellFormed(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name  string
		chart Chart
		lines int // titles of lines, and that of the chart
	}{
		{"nothing", Chart{Title: "a < b & c"}, 1},
		{"no points", Chart{Series: []Series{{Name: "empty"}}}, 1},
		{"one point", Chart{Series: []Series{{"<x>", []float64{1}, []float64{1}}}}, 2},
		{"all equal", Chart{LogX: true, Series: []Series{{"a", []float64{3, 3}, []float64{0, 0}}}}, 2},
		{"below zero on a logarithm", Chart{LogX: true, Series: []Series{{"a", []float64{-1, 0}, []float64{1, 2}}}}, 1},
		{"not numbers", Chart{Series: []Series{{"a", []float64{nan, math.Inf(1), 1, 2}, []float64{1, 1, nan, 4}}}}, 2},
		{"many", Chart{Series: slices.Repeat([]Series{{"a long name of a line", []float64{1, 2}, []float64{-3, 4}}}, 20)}, 21},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svg := tt.chart.SVG()
			if got := elements(t, svg)["title"]; got != tt.lines {
				t.Errorf("titles = %d, want %d in %s", got, tt.lines, svg)
			}
			if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
				t.Errorf("a point without a place: %s", svg)
			}
		})
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		log    bool
		want   []float64
	}{
		{"whole", []float64{0, 10}, false, []float64{0, 2, 4, 6, 8, 10}},
		{"rounded up", []float64{3, 93}, false, []float64{0, 20, 40, 60, 80, 100}},
		{"decades", []float64{10, 200}, true, []float64{10, 20, 50, 100, 200}},
		{"none", nil, false, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := spanOf([][]float64{tt.values}, tt.log).ticks()
			if !slices.EqualFunc(got, tt.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
				t.Errorf("ticks = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDistribution(t *testing.T) {
	s := Distribution("a", []float64{1, 2, 2, 9})
	if !slices.Equal(s.X, []float64{1, 2, 2, 9}) || !slices.Equal(s.Y, []float64{0.25, 0.5, 0.75, 1}) {
		t.Errorf("distribution = %v over %v", s.Y, s.X)
	}
}
