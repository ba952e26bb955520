package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the man pages of a whole tree; packagers call it. It is
// hidden, since a user reads pages and does not make them.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "Write the man pages of this program into a directory",
		Example: root.Name() + " man /usr/local/share/man/man1",
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			var codes bytes.Buffer
			writeExitTable(&codes)
			walk(root, func(c *cobra.Command) {
				c.DisableAutoGenTag = true
				if c.Long == "" {
					c.Long = c.Short
				}
				c.Long = strings.TrimSpace(c.Long) + "\n\nExit codes:\n\n" + strings.ReplaceAll(codes.String(), "  ", "    ")
			})
			err := doc.GenManTree(root, &doc.GenManHeader{
				Title:   strings.ToUpper(root.Name()),
				Section: "1",
				Source:  "Instant Grid " + Version(root.Name()).Version,
				Manual:  "Instant Grid",
			}, args[0])
			if err != nil {
				return err
			}
			pages, err := filepath.Glob(filepath.Join(args[0], root.Name()+"*.1"))
			if err != nil {
				return err
			}
			if JSON(cmd) {
				return PrintJSON(cmd, "man", map[string]any{"pages": pages})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(pages, "\n"))
			return err
		},
	}
}
