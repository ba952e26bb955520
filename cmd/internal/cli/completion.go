package cli

import (
	"bytes"
	"io"

	"github.com/spf13/cobra"
)

// completionCommand prints the completion script of a shell.
func completionCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print the completion script of a shell",
		Example:   root.Name() + " completion bash > /etc/bash_completion.d/" + root.Name(),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			var script bytes.Buffer
			if err := generate(root, args[0], &script); err != nil {
				return err
			}
			if JSON(cmd) {
				return PrintJSON(cmd, "completion", completionDocument{args[0], script.String()})
			}
			return writeAll(cmd.OutOrStdout(), script.Bytes())
		},
	}
}

// completionDocument is "instantgrid/completion/1".
type completionDocument struct {
	Shell  string `json:"shell"`
	Script string `json:"script"`
}

func generate(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	default:
		return root.GenPowerShellCompletionWithDesc(w)
	}
}
