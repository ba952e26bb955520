package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Explain the agent's settings",
		Example: "grid config example > config.yaml\ngrid up --config config.yaml --check",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "example",
		Short: "Print a configuration with every key and its default",
		Long: `Print a configuration file with every key, explained, and its default. Stored as
config.yaml in the state directory it changes nothing, until it is edited.`,
		Example: "grid config example > config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s := newSettings()
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "config-example", map[string]any{"text": exampleConfig(), "rows": fieldRows(s)})
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), exampleConfig())
			return err
		},
	})
	return cmd
}

func exampleConfig() string {
	return config.Example("Settings of grid up: every key with its default. What is left out has that default. "+
		"Check a change with grid up --check, and have a running agent read it with grid reload.", newSettings().sections)
}

// A fieldRow is one key, as "instantgrid/config-example/1" lists them.
type fieldRow struct {
	Field   string `json:"field"`
	Default string `json:"default"` // as it is written in the file
	Flag    string `json:"flag,omitempty"`
	Live    bool   `json:"live"` // a reload applies it
	Doc     string `json:"doc"`
}

func fieldRows(s *settings) (rows []fieldRow) {
	values := config.Values(s.sections)
	for _, section := range s.sections {
		for _, k := range section.Keys {
			rows = append(rows, fieldRow{section.Name + "." + k.Name, values[len(rows)][1], k.Flag, k.Live, k.Doc})
		}
	}
	return rows
}

// configCheckDocument is "instantgrid/config-check/1".
type configCheckDocument struct {
	OK   bool   `json:"ok"`
	File string `json:"file"` // empty: there is none, and defaults and flags hold
	Dir  string `json:"dir"`
}

// checkConfig looks at all that up would read, and changes nothing.
func (o *options) checkConfig(cmd *cobra.Command, c *configuration) error {
	dir, err := o.stateDirName()
	if err != nil {
		return err
	}
	s, err := c.read(dir)
	if err != nil {
		return err
	}
	if _, err := o.agentRendezvous(dir, s); err != nil {
		return err
	}
	var cfg overlay.Config
	if err := s.node.configure(nil, &cfg); err != nil {
		return err
	}
	cfg.Dir = dir
	if err := errors.Join(overlay.CheckState(cfg)...); err != nil {
		return err
	}
	doc := configCheckDocument{OK: true, File: c.fromFile, Dir: dir}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "config-check", doc)
	}
	file := doc.File
	if file == "" {
		file = "no file, so defaults and flags"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s; state directory %s\n", file, dir)
	return err
}

func reloadCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the agent read its settings again",
		Long: `Have the running agent read its settings again, as a SIGHUP does, and say which
keys have changed and which need a restart. If anything is wrong with them,
nothing changes.`,
		Example: "grid reload",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			doc, err := agent.reload(cmd.Context())
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "reload", doc)
			}
			file := doc.File
			if file == "" {
				file = "no file"
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "read     %s\n", file)
			fmt.Fprintf(w, "changed  %s\n", orText(strings.Join(doc.Changed, ", "), "nothing"))
			if len(doc.Restart) > 0 {
				_, err = fmt.Fprintf(w, "restart  %s\n", strings.Join(doc.Restart, ", "))
				cli.Note(cmd, "next, for what needs a restart: grid down, then grid up")
			}
			return err
		},
	}
}
