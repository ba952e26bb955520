package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/overlay"
)

// configFile is the configuration in the state directory.
const configFile = "config.yaml"

// A part is a section of the configuration and what it makes the agent do. To
// add one: a struct with the settings, in a file of its own, and a line in
// newSettings.
type part interface {
	// section declares the keys; their values are the defaults at first.
	section() config.Section

	// apply makes the agent do what the settings say. It is called once when
	// the node has started, in the order of newSettings, and again when a
	// reload has changed a live key of the section. A reload calls it for
	// what Check has found good; if it fails all the same, it is called
	// again with the settings of before.
	apply(a *agent) error
}

// A configurer is a part that has a say in the node's configuration, before the
// node starts.
type configurer interface {
	configure(a *agent, c *overlay.Config) error
}

// settings are all parts of the agent.
type settings struct {
	node  nodeSettings
	log   logSettings
	store *storeSettings

	parts    []part
	sections []config.Section
}

// newSettings returns the defaults.
func newSettings() *settings {
	s := &settings{node: defaultNode(), log: defaultLog(), store: defaultStore()}
	s.parts = []part{
		&s.node,
		&s.log,
		defaultControl(),
		defaultEvents(),
		defaultReceive(),
		defaultRelay(),
		defaultDiscovery(),
		defaultNAT(),
		defaultTUN(),
		defaultServices(), // the resolver may need the interface
		s.store,
		defaultHTTP(),
		defaultWorker(),
		defaultMetrics(), // of all that is above
	}
	for _, p := range s.parts {
		s.sections = append(s.sections, p.section())
	}
	return s
}

// A configuration is where the agent's settings come from: the defaults, then a
// file, then flags.
type configuration struct {
	path     string // of --config; empty: config.yaml in the state directory, if it is there
	flags    *pflag.FlagSet
	verbose  bool
	flagged  *settings // what the flags have set; nil: the command has none of them
	fromFile string    // the file that was read; empty: none
}

// addFlags defines --config, --verbose and the flags of the keys.
func (c *configuration) addFlags(cmd *cobra.Command) {
	c.flags = cmd.Flags()
	c.flagged = newSettings()
	c.flags.StringVar(&c.path, "config", "", "`file` of settings (default config.yaml in the state directory, if it is there)")
	c.flags.BoolVarP(&c.verbose, "verbose", "v", false, "log more: log.level debug")
	config.Flags(c.flags, c.flagged.sections)
}

// read returns the settings of now.
func (c *configuration) read(dir string) (*settings, error) {
	s := newSettings()
	file := c.path
	if file == "" {
		file = filepath.Join(dir, configFile)
	}
	content, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := config.Parse(file, content, s.sections); err != nil {
			return nil, err
		}
		c.fromFile = file
	case c.path == "" && errors.Is(err, fs.ErrNotExist):
		c.fromFile = ""
	default:
		return nil, err
	}
	if c.flagged != nil {
		config.Override(c.flags, s.sections, c.flagged.sections)
	}
	if c.verbose {
		s.log.level = "debug"
	}
	return s, config.Check(s.sections)
}
