package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// CheckTree returns what a command tree owes its users: each command has a
// short text, and an example that begins with the name of the program and that
// the tree can parse. Every program has a test that wants the answer empty.
func CheckTree(root *cobra.Command) (owed []string) {
	Prepare(root)
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" {
			owed = append(owed, path+": has no short text")
		}
		if !cmd.HasExample() {
			owed = append(owed, path+": has no example")
			return
		}
		for _, line := range Examples(cmd) {
			if line[0] != root.Name() {
				continue // a line of another program, such as the far side's
			}
			target, args, err := root.Find(line[1:])
			if err == nil {
				args, err = parseOnly(target, args)
			}
			if err == nil && target.Args != nil {
				err = target.Args(target, args)
			}
			if err != nil {
				owed = append(owed, fmt.Sprintf("%s: example %q: %v", path, strings.Join(line, " "), err))
			}
		}
	})
	return owed
}

// parseOnly looks flags up without setting them, since a tree keeps what it
// once parsed, and returns the arguments that are left.
func parseOnly(cmd *cobra.Command, args []string) (rest []string, err error) {
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.InheritedFlags())
	cmd.InitDefaultHelpFlag()
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(rest, args[i+1:]...), nil
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			rest = append(rest, a)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		f := flags.Lookup(name)
		if f == nil && !strings.HasPrefix(a, "--") {
			f = flags.ShorthandLookup(name[:1])
			hasValue = hasValue || len(name) > 1
		}
		if f == nil {
			return nil, fmt.Errorf("unknown flag %s", a)
		}
		if !hasValue && f.NoOptDefVal == "" {
			i++
			if i == len(args) {
				return nil, fmt.Errorf("flag %s has no value", a)
			}
		}
	}
	return rest, nil
}

// Examples returns the command lines of cmd's example, split at spaces.
// Comments, and what follows a pipe or a redirection, are left out; quotes are
// not understood, so examples avoid them.
func Examples(cmd *cobra.Command) (lines [][]string) {
	for l := range strings.SplitSeq(cmd.Example, "\n") {
		l, _, _ = strings.Cut(l, "#  ")
		var line []string
		for _, word := range strings.Fields(l) {
			if strings.HasPrefix(word, "#") && !strings.Contains(word, "@") && len(line) == 0 {
				break
			}
			if word == "|" || word == ">" || word == ">>" || word == "&" || word == "&&" || word == ";" {
				break
			}
			line = append(line, word)
		}
		if len(line) > 0 {
			lines = append(lines, line)
		}
	}
	return lines
}
