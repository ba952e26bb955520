package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

// A tracing says where ri2n writes what it does. The zero value writes nothing.
type tracing struct {
	File    string `json:"file"`
	Packets bool   `json:"packets,omitempty"` // each packet, which slows fast transfers down
}

func (t *tracing) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.File, "qlog", "", "`file` to write a trace of ri2n's sessions to, for ri2n-bench plot")
	cmd.Flags().BoolVar(&t.Packets, "qlog-packets", false, "have traces list each packet with its frames; slows fast transfers down")
}

// begin opens the file, lets key know of it, and returns a function that ends
// the file and says what is missing in it.
func (t tracing) begin(cmd *cobra.Command, key *identity, title string) (end func(), err error) {
	if t.File == "" {
		return func() {}, nil
	}
	w, err := qlog.Create(t.File, qlog.Options{Title: title, NoPackets: !t.Packets})
	if err != nil {
		return nil, fmt.Errorf("--qlog: %w", err)
	}
	key.trace = w.Trace
	return func() {
		if err := w.Close(); err != nil {
			cli.Note(cmd, "%s is not whole: %v", t.File, err)
		} else if n := w.Dropped(); n > 0 {
			cli.Note(cmd, "%s lacks %d events, which came faster than the file took them", t.File, n)
		}
	}, nil
}
