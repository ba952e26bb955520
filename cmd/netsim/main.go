// Command netsim puts two nodes behind every kind of NAT and shows what they
// can do: in a simulated network and in virtual time, or in network namespaces
// of the Linux kernel.
package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func main() { os.Exit(cli.Main(newRoot(), explain)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "netsim",
		Short: "Run nodes behind NATs of every kind",
		Long: `netsim builds a network with NATs, a rendezvous and nodes in it, has two of
the nodes exchange bytes, and prints which path they found and how fast.

Networks are simulated, in virtual time, unless --backend kernel asks for
network namespaces of Linux, which needs root.`,
		Example: `netsim matrix
netsim run symmetric-pair
netsim demo`,
	}
	root.AddCommand(newMatrix(), newRun(), newScenarios(), newOverlay(), newDemo(), newDemoRPC(), newBenchGrid(), newWorker(), newWeb(), newGet(), newLikelihood())
	return root
}

// explain says what to do about the errors of netsim's packages.
func explain(err error) *cli.Error {
	var wrong *netsim.ScenarioError
	switch {
	case errors.As(err, &wrong):
		object := wrong.File
		if object == "" {
			object = "scenario"
		}
		return &cli.Error{Object: object, Cause: wrong.Error(), Next: "mend the field; docs/netsim.md lists them all", Code: cli.ExitUsage, Err: err}
	case errors.Is(err, kernel.ErrNotPermitted):
		return &cli.Error{Object: "--backend kernel", Cause: err.Error(), Next: "run it as root, or with --backend sim", Err: err}
	case errors.Is(err, kernel.ErrUnsupported):
		return &cli.Error{Object: "--backend kernel", Cause: err.Error(), Next: "run it with --backend sim, which has every NAT", Err: err}
	}
	return nil
}

// loadScenario reads a file or, where there is none of that name, a scenario
// that comes with the program.
func loadScenario(name string) (netsim.Scenario, error) {
	sc, err := netsim.NamedScenario(name)
	if err == nil {
		return sc, nil
	}
	sc, err = netsim.LoadScenario(name)
	if errors.Is(err, fs.ErrNotExist) {
		return sc, &cli.Error{
			Object: name,
			Cause:  "neither a file nor a built-in scenario",
			Next:   "list the built-in ones: netsim scenarios",
			Code:   cli.ExitUsage,
			Err:    err,
		}
	}
	return sc, err
}

// A backend runs scenarios.
type backend string

const (
	sim        backend = "sim"
	namespaces backend = "kernel"
)

// backendFlag adds --backend to a command.
func backendFlag(cmd *cobra.Command) *string {
	name := cmd.Flags().String("backend", string(sim), "where the network runs: sim, or kernel (Linux, as root)")
	cmd.RegisterFlagCompletionFunc("backend", cobra.FixedCompletions([]string{string(sim), string(namespaces)}, cobra.ShellCompDirectiveNoFileComp))
	return name
}

func parseBackend(cmd *cobra.Command, name string) (backend, error) {
	switch b := backend(name); b {
	case sim:
		return b, nil
	case namespaces:
		return b, kernel.Check()
	}
	return "", cli.Usagef("--backend "+name, cmd.CommandPath()+" --backend sim", "it is neither sim nor kernel")
}

// startKernel runs sc in network namespaces.
func startKernel(sc netsim.Scenario) (netsim.Network, error) {
	n, err := kernel.Start(sc)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// startSim runs sc in the simulator, on the clock of the caller.
func startSim(sc netsim.Scenario, opts ...netsim.Option) (netsim.Network, error) {
	n, err := netsim.Start(sc, opts...)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// interrupted returns what a command says when its context ended before its
// work did, and nil while it has not.
func interrupted(cmd *cobra.Command) error {
	if cmd.Context().Err() == nil {
		return nil
	}
	return &cli.Error{Object: cmd.CommandPath(), Cause: "interrupted", Next: "run it again", Code: cli.ExitInterrupted}
}
