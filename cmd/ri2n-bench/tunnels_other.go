//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newTunnels makes the command that needs network namespaces.
func newTunnels() *cobra.Command {
	return &cobra.Command{
		Use:     "tunnels",
		Short:   "Measure TCP through all that grid offers programs, and through wireguard-go (Linux)",
		Example: "sudo ri2n-bench tunnels",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("tunnels need the network namespaces of Linux")
		},
	}
}

// newWireguard makes the command that tunnels starts.
func newWireguard() *cobra.Command {
	return &cobra.Command{Use: "wireguard", Short: "Run one end of a wireguard-go tunnel (Linux)", Hidden: true, Args: cobra.NoArgs}
}
