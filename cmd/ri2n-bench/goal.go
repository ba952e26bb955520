package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// A goal is one figure that ri2n is to reach, and what it reached.
type goal struct {
	Scenario string     `json:"scenario"`
	Figure   string     `json:"figure"`
	AtLeast  cli.Number `json:"at_least,omitzero"`
	AtMost   cli.Number `json:"at_most,omitzero"`
	Value    cli.Number `json:"value"` // null: not measured
	Met      bool       `json:"met"`
}

// A rowKey finds a row.
type rowKey struct{ scenario, variant, contender string }

// goalsOf returns the goals of the scenarios that rows are of.
func goalsOf(rows []row) []goal {
	found := make(map[rowKey]row)
	ran := make(map[string]bool)
	for _, r := range rows {
		found[rowKey{r.Scenario, r.Variant, r.Contender}] = r
		if r.Contender == "ri2n" {
			ran[r.Scenario] = true
		}
	}
	var goals []goal
	get := func(scenario, variant, contender string, field func(row) cli.Number) cli.Number {
		r, ok := found[rowKey{scenario, variant, contender}]
		if !ok {
			return cli.Number(math.NaN())
		}
		return field(r)
	}
	least := func(scenario, figure string, limit float64, value cli.Number) {
		goals = append(goals, goal{scenario, figure, cli.Number(limit), cli.Number(math.NaN()), value, float64(value) >= limit})
	}
	most := func(scenario, figure string, limit float64, value cli.Number) {
		goals = append(goals, goal{scenario, figure, cli.Number(math.NaN()), cli.Number(limit), value, float64(value) <= limit})
	}
	ratio := func(scenario, variant string, field func(row) cli.Number, contender string) cli.Number {
		return get(scenario, variant, "ri2n", field) / get(scenario, variant, contender, field)
	}

	least("bulk", "goodput / ceiling", 0.45, ratio("bulk", "", goodputOf, "ceiling"))
	least("bulk", "goodput / quic-go", 3, ratio("bulk", "", goodputOf, "quic"))
	most("bulk", "CPU-seconds per GB / quic-go", 0.40, ratio("bulk", "", cpuPerGBOf, "quic"))
	least("cut", "goodput / ceiling", 0.60, ratio("cut", "", goodputOf, "ceiling"))
	least("cut", "goodput / quic-go", 1.5, ratio("cut", "", goodputOf, "quic"))
	most("cut", "CPU-seconds per GB / quic-go", 0.65, ratio("cut", "", cpuPerGBOf, "quic"))
	most("ping", "p50 / plain UDP", 1.08, ratio("ping", "", pingOf, "udp"))
	most("setup", "median / quic-go", 0.55, ratio("setup", "", setupOf, "quic"))
	for _, s := range scenarios {
		if s.name != "loss" {
			continue
		}
		for _, v := range s.variants {
			rival := get(s.name, v.name, "tcp-bbr", goodputOf)
			least(s.name, fmt.Sprintf("%s: goodput / kernel TCP BBR", v.name), 0.95, get(s.name, v.name, "ri2n", goodputOf)/rival)
		}
	}
	one := get("two-links", "one link", "ri2n", goodputOf)
	least("two-links", "both links / one link", 1.90, get("two-links", "both links", "ri2n", goodputOf)/one)
	home := get("two-links", "two homes, one uplink each", "ri2n", goodputOf)
	least("two-links", "two NATed homes: both uplinks / one", 1.8, get("two-links", "two homes, both uplinks", "ri2n", goodputOf)/home)
	for _, cut := range []string{"first", "second"} {
		variant := "two homes, " + cut + " uplink cut"
		most("two-links", "two NATed homes, "+cut+" uplink cut: longest gap in ms", 100, get("two-links", variant, "ri2n", gapOf))
		least("two-links", "two NATed homes, "+cut+" uplink cut: goodput half a second later / the survivor's rate", 0.9,
			get("two-links", variant, "ri2n", func(r row) cli.Number { return r.Recovered })/cli.Number(homeUplink.Rate))
	}
	alone := get("unequal-links", "100 Mbit/s at 10 ms alone", "ri2n", goodputOf)
	least("unequal-links", "100+100 Mbit/s at 10/100 ms / the best alone", 1.7, get("unequal-links", "100+100 Mbit/s at 10/100 ms", "ri2n", goodputOf)/alone)
	least("unequal-links", "100+10 Mbit/s / the best alone", 1.05, get("unequal-links", "100+10 Mbit/s at 10 ms", "ri2n", goodputOf)/alone)
	most("link-dies", "longest gap in ms", 100, get("link-dies", "", "ri2n", gapOf))
	// 1448 of 1500 bytes is what TCP brings across such a link; asked of ri2n
	// is nine tenths of the link itself.
	least("link-dies", "goodput half a second later / the survivor's rate", 0.9, get("link-dies", "", "ri2n", func(r row) cli.Number { return r.Recovered })/cli.Number(failingLinks[1].Rate))
	most("flap", "longest gap in ms", 150, get("flap", "", "ri2n", gapOf))
	most("redundant", "p99 / round trip of the links", 1.2, get("redundant", "", "ri2n-redundant", func(r row) cli.Number { return r.PingP99 })/cli.Number(2*lossyLinks[0].Delay.Microseconds()))
	most("idle", "bytes of memory for each session", 8<<10, get("idle", "", "ri2n", func(r row) cli.Number { return r.RSS }))
	most("idle", "goroutines for each session", 0.01, get("idle", "", "ri2n", func(r row) cli.Number { return r.Goroutines }))
	most("idle", "share of one core, both ends", 0.02, get("idle", "", "ri2n", func(r row) cli.Number { return r.CPUShare }))
	for _, rival := range []string{"CUBIC", "BBR"} {
		share := get("fair", "beside "+rival, "ri2n", func(r row) cli.Number { return r.Share })
		least("fair", "share beside "+rival, 0.25, share)
		most("fair", "share beside "+rival, 0.75, share)
	}
	return slices.DeleteFunc(goals, func(g goal) bool { return !ran[g.Scenario] })
}

func goodputOf(r row) cli.Number  { return r.Goodput }
func cpuPerGBOf(r row) cli.Number { return r.CPUPerGB }
func pingOf(r row) cli.Number     { return r.PingP50 }
func setupOf(r row) cli.Number    { return r.SetupP50 }
func gapOf(r row) cli.Number      { return r.LongestGap }

// limit shows the bound of a goal for people.
func (g goal) limit() string {
	if !g.AtLeast.IsZero() {
		return "at least " + show(g.AtLeast, 2)
	}
	return "at most " + show(g.AtMost, 2)
}

// verdict shows whether a goal was met.
func (g goal) verdict() string {
	switch {
	case g.Value.IsZero():
		return "not measured"
	case g.Met:
		return "met"
	}
	return "NOT MET"
}
