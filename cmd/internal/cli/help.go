package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// help prints what a command does, an example, and the exit codes.
func help(cmd *cobra.Command, _ []string) {
	w := cmd.OutOrStdout()
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(w, "%s\n", strings.TrimSpace(text))

	fmt.Fprintf(w, "\nUsage:\n")
	if cmd.Annotations[groupKey] == "" && cmd.Runnable() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExample:\n%s\n", indent(cmd.Example))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nCommands:\n")
		for _, child := range cmd.Commands() {
			if child.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-*s  %s\n", child.NamePadding(), child.Name(), child.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", cmd.LocalFlags().FlagUsages())
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(w, "\nFlags of every command:\n%s", cmd.InheritedFlags().FlagUsages())
	}
	fmt.Fprintf(w, "\nExit codes:\n")
	writeExitTable(w)
}

// helpCommand replaces cobra's, which calls an unknown topic a success.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: root.Name() + " help version",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := root.Find(args)
			switch {
			case err == nil && len(rest) == 0:
				return target.Help()
			case len(rest) > 0:
				return unknownCommand(target, rest[0])
			}
			return unknownCommand(root, args[0])
		},
	}
}

// indent gives each line of an example the same two spaces.
func indent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight("  "+strings.TrimSpace(l), " ")
	}
	return strings.Join(lines, "\n")
}
