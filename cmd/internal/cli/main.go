package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main prepares root, runs it with the program's arguments and returns the
// exit code. It adds --json, version, completion and the hidden man command.
//
// Every error is printed once: as text on the standard error, and with --json
// also as a document "instantgrid/error/1" on the standard output, unless the
// command has printed its own document already.
func Main(root *cobra.Command, explainers ...Explainer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks; with the handler gone, the second one kills.
	go func() {
		<-ctx.Done()
		stop()
	}()
	return Run(ctx, root, os.Args[1:], explainers...)
}

// Run is Main for tests: with given arguments, without signals, writing where
// root.SetOut and root.SetErr say.
func Run(ctx context.Context, root *cobra.Command, args []string, explainers ...Explainer) int {
	Prepare(root)
	started := watchStart(root)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if cmd == nil {
		cmd = root
	}
	var e *Error
	if *started || errors.As(err, &e) {
		e = explain(err, cmd.CommandPath(), explainers)
	} else {
		e = usageError(cmd, err)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		e = explain(context.Canceled, cmd.CommandPath(), nil)
	}
	if wantsJSON(cmd, args) && root.Annotations[printedKey] == "" {
		if b, err := AppendDocument(nil, "error", e.document()); err == nil {
			writeAll(root.OutOrStdout(), b)
		}
	}
	e.write(root.ErrOrStderr(), root.Name())
	return e.ExitCode()
}

// Prepare gives root what the four programs share. Main calls it; tests that
// look at a tree without running it may call it too. Once is enough, more does
// no harm.
func Prepare(root *cobra.Command) {
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpFunc(help)
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		help(cmd, nil)
		return nil
	})
	if root.PersistentFlags().Lookup("json") == nil {
		root.PersistentFlags().Bool("json", false, "print the result as one JSON document")
	}
	if !hasChild(root, "help") {
		root.SetHelpCommand(helpCommand(root))
		root.InitDefaultHelpCmd()
	}
	for _, add := range []func(*cobra.Command) *cobra.Command{versionCommand, completionCommand, manCommand} {
		cmd := add(root)
		if !hasChild(root, cmd.Name()) {
			root.AddCommand(cmd)
		}
	}
	walk(root, func(cmd *cobra.Command) {
		if cmd.HasSubCommands() && !cmd.Runnable() {
			makeGroup(cmd)
		}
	})
}

func hasChild(cmd *cobra.Command, name string) bool {
	for _, child := range cmd.Commands() {
		if child.Name() == name {
			return true
		}
	}
	return false
}

// walk visits cmd and everything below it, parents first.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, child := range cmd.Commands() {
		walk(child, visit)
	}
}

// groupKey marks commands that only hold others.
const groupKey = "cli.group"

// makeGroup has a command that only holds others print its help when called
// alone, and refuse a child that it does not have: cobra would print help and
// call that a success.
func makeGroup(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = make(map[string]string)
	}
	cmd.Annotations[groupKey] = "true"
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return cmd.Help() }
}

func unknownCommand(cmd *cobra.Command, name string) *Error {
	e := Usagef(cmd.CommandPath(), cmd.CommandPath()+" --help", "there is no command %q", name)
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		e.Next = "did you mean: " + cmd.CommandPath() + " " + strings.Join(near, ", or "+cmd.CommandPath()+" ")
	}
	return e
}

// watchStart returns a flag that is set once a command's own code begins: what
// fails before that is usage.
func watchStart(root *cobra.Command) *bool {
	started := new(bool)
	walk(root, func(cmd *cobra.Command) {
		if run := cmd.RunE; run != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				*started = true
				return run(cmd, args)
			}
		} else if run := cmd.Run; run != nil {
			cmd.Run = func(cmd *cobra.Command, args []string) {
				*started = true
				run(cmd, args)
			}
		}
	})
	return started
}

// usageError explains what cobra refused: its first line says what.
func usageError(cmd *cobra.Command, err error) *Error {
	cause, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{
		Object: cmd.CommandPath(),
		Cause:  cause,
		Next:   cmd.CommandPath() + " --help",
		Code:   ExitUsage,
		Err:    err,
	}
}

// wantsJSON also answers for a command line that could not be parsed.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	if JSON(cmd) {
		return true
	}
	for _, a := range args {
		switch a {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

// Note prints one line of explanation on the standard error of cmd.
func Note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
}
