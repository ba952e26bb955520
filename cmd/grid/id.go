package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// idDocument is "instantgrid/id/1".
type idDocument struct {
	PeerID ri2n.PeerID `json:"peer_id"`
	Dir    string      `json:"dir"`
}

func idCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "id",
		Short: "Print this computer's peer ID",
		Long: `Print this computer's peer ID, by which others name it, after making its key if
there is none yet. It needs no network.`,
		Example: "grid id",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			id, err := overlay.LoadIdentity(dir)
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "id", idDocument{id.PeerID(), dir})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id.PeerID())
			return err
		},
	}
}
