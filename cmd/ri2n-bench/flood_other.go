//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newFlood makes the command that needs network namespaces.
func newFlood() *cobra.Command {
	return &cobra.Command{
		Use:     "flood",
		Short:   "Measure what a flood of Initials takes from a session (Linux)",
		Example: "sudo ri2n-bench flood",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a flood needs the network namespaces of Linux")
		},
	}
}
