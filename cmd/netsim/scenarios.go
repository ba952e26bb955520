package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// scenarioRow describes one built-in scenario.
type scenarioRow struct {
	Name   string   `json:"name"`
	NATs   []string `json:"nats"`
	Hosts  []string `json:"hosts"`
	Kernel bool     `json:"kernel"`        // the kernel back end can run it
	Why    string   `json:"why,omitempty"` // if it cannot
	From   string   `json:"from"`          // who sends by default
	To     string   `json:"to"`            // to whom
	Text   string   `json:"-"`
}

func newScenarios() *cobra.Command {
	return &cobra.Command{
		Use:     "scenarios",
		Short:   "List the scenarios that come with the program",
		Example: "netsim scenarios",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			rows := []scenarioRow{}
			for _, name := range netsim.Scenarios() {
				row, err := describe(name)
				if err != nil {
					return err
				}
				rows = append(rows, row)
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "scenarios", map[string]any{"rows": rows})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "name\tback ends\tNATs")
			for _, r := range rows {
				backends := "sim"
				if r.Kernel {
					backends += ", kernel"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, backends, r.Text)
			}
			return w.Flush()
		},
	}
}

func describe(name string) (scenarioRow, error) {
	sc, err := netsim.NamedScenario(name)
	if err != nil {
		return scenarioRow{}, err
	}
	row := scenarioRow{Name: name, NATs: []string{}, Hosts: []string{}, Kernel: true}
	for i, n := range sc.NATs {
		text := n.Name + " " + n.NAT.Type().String()
		row.NATs = append(row.NATs, text)
		if i > 0 {
			row.Text += ", "
		}
		row.Text += text
	}
	if err := kernel.SupportsScenario(sc); err != nil {
		row.Kernel, row.Why = false, err.Error()
	}
	for _, h := range sc.Hosts {
		row.Hosts = append(row.Hosts, h.Name)
	}
	row.From, row.To, err = sendersOf(sc, "", "")
	return row, err
}

// sendersOf returns the names of the two hosts that exchange a file: those
// asked for, else the first hosts of the scenario besides the rendezvous.
func sendersOf(sc netsim.Scenario, from, to string) (string, string, error) {
	known := make(map[string]bool)
	var free []string
	for _, h := range sc.Hosts {
		known[h.Name] = h.Of == ""
		if h.Of == "" && h.Name != rendezvousHost && h.Name != from && h.Name != to {
			free = append(free, h.Name)
		}
	}
	fix := "name it in the scenario, or choose others with --from and --to"
	if !known[rendezvousHost] {
		return "", "", cli.Usagef("scenario "+sc.Name, "add a public host of that name", "no host is named %s, which is where the rendezvous runs", rendezvousHost)
	}
	for _, name := range []*string{&from, &to} {
		if *name == "" && len(free) > 0 {
			*name, free = free[0], free[1:]
		}
		if *name == "" {
			return "", "", cli.Usagef("scenario "+sc.Name, "add hosts", "it has no two hosts besides the rendezvous")
		}
		if !known[*name] {
			return "", "", cli.Usagef("host "+*name, fix, "scenario %s has no such host", sc.Name)
		}
	}
	if from == to {
		return "", "", cli.Usagef("host "+from, fix, "it cannot send to itself")
	}
	return from, to, nil
}
