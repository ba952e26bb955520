package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	sysservice "github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// unitFile is the systemd unit; renderUnit fills in what is between @.
//
//go:embed grid.service
var unitFile string

// serviceName is what service managers call the agent.
const serviceName = "instantgrid"

// managedDocument is "instantgrid/service-manager/1".
type managedDocument struct {
	Name      string   `json:"name"`
	Manager   string   `json:"manager"` // "linux-systemd" and so on
	State     string   `json:"state"`   // not-installed, stopped, running or unknown
	Arguments []string `json:"arguments,omitempty"`
	Next      string   `json:"next"`
}

func serviceCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Run the agent as a service of the system",
		Long: `Run the agent as a service that starts with the computer: a systemd unit on Linux,
a launch daemon on macOS, a service on Windows. It takes the rights of an
administrator.`,
		Example: "grid service install\ngrid service status\ngrid service uninstall",
	}
	var configPath string
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the agent as a service and start it",
		Long: `Install grid up as a service that starts with the computer, and start it. Under
systemd its state directory is /var/lib/instantgrid unless --dir names another;
make that one a member first: grid join --dir /var/lib/instantgrid TOKEN.`,
		Example: "grid service install\ngrid service install --config /etc/instantgrid.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			arguments, err := o.serviceArguments(configPath)
			if err != nil {
				return err
			}
			s, err := newService(arguments)
			if err != nil {
				return err
			}
			if err := s.Install(); err != nil {
				return serviceError("install", err)
			}
			if err := s.Start(); err != nil {
				return serviceError("start", err)
			}
			return printService(cmd, s, arguments)
		},
	}
	install.Flags().StringVar(&configPath, "config", "", "`file` of settings for the agent")
	uninstall := &cobra.Command{
		Use:     "uninstall",
		Short:   "Stop the service and remove it",
		Long:    "Stop the service and remove it. The state directory stays.",
		Example: "grid service uninstall",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := newService(nil)
			if err != nil {
				return err
			}
			if state, err := s.Status(); err == nil && state == sysservice.StatusRunning {
				if err := s.Stop(); err != nil {
					return serviceError("stop", err)
				}
			}
			if err := s.Uninstall(); err != nil {
				return serviceError("uninstall", err)
			}
			return printService(cmd, s, nil)
		},
	}
	status := &cobra.Command{
		Use:     "status",
		Short:   "Say whether the service is installed and runs",
		Example: "grid service status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := newService(nil)
			if err != nil {
				return err
			}
			return printService(cmd, s, nil)
		},
	}
	unit := &cobra.Command{
		Use:   "unit",
		Short: "Print the systemd unit",
		Long: `Print the systemd unit that grid service install would write, for those who
install it by other means.`,
		Example: "grid service unit > instantgrid.service",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			arguments, err := o.serviceArguments("")
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			text := renderUnit(program, arguments)
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "service-unit", map[string]string{"text": text})
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.AddCommand(install, uninstall, status, unit)
	return cmd
}

// serviceArguments is the command line of the service, with absolute paths.
func (o *options) serviceArguments(configPath string) ([]string, error) {
	arguments := []string{"up"}
	for _, f := range []struct{ flag, value string }{{"--dir", o.dir}, {"--config", configPath}} {
		if f.value == "" {
			continue
		}
		path, err := filepath.Abs(f.value)
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, f.flag, path)
	}
	if o.rendezvous != "" {
		arguments = append(arguments, "--rendezvous", o.rendezvous)
	}
	return arguments, nil
}

// renderUnit returns the systemd unit for a program and its arguments, which
// begin with up.
func renderUnit(program string, arguments []string) string {
	var line, directory, writable string
	for i, a := range arguments[1:] {
		line += " " + unitWord(a)
		if a == "--dir" {
			directory = " --dir " + unitWord(arguments[i+2])
			writable = "ReadWritePaths=" + unitWord(arguments[i+2]) + "\n"
		}
	}
	return strings.NewReplacer(
		"@PROGRAM@", unitWord(program), "@PATH@", strings.ReplaceAll(program, "%", "%%"), "@ARGUMENTS@", line, "@DIRECTORY@", directory, "@WRITABLE@\n", writable,
	).Replace(unitFile)
}

// unitWord quotes one word of a command line (systemd.service(5), "COMMAND
// LINES").
func unitWord(s string) string {
	s = strings.NewReplacer("%", "%%", "$", "$$").Replace(s)
	if strings.ContainsAny(s, " \t\"'\\;") {
		return strconv.Quote(s)
	}
	return s
}

// newService returns the agent as the system's service manager sees it.
func newService(arguments []string) (sysservice.Service, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cfg := &sysservice.Config{
		Name: serviceName, DisplayName: "Instant Grid agent", Description: "Connects this computer to its grid",
		Executable: program, Arguments: arguments, Option: sysservice.KeyValue{"RunAtLoad": true},
	}
	if len(arguments) > 0 {
		cfg.Option["SystemdScript"] = renderUnit(program, arguments)
	}
	s, err := sysservice.New(managed{}, cfg)
	if err != nil {
		return nil, serviceError("use", err)
	}
	return s, nil
}

// managed is what package service runs for managers that call into the program:
// Windows' alone. The zero value runs nothing.
type managed struct {
	cancel context.CancelFunc
	ended  chan struct{}
	run    func()
}

// Start implements [sysservice.Interface].
func (m managed) Start(sysservice.Service) error {
	go func() {
		defer close(m.ended)
		m.run()
	}()
	return nil
}

// Stop implements [sysservice.Interface].
func (m managed) Stop(sysservice.Service) error {
	m.cancel()
	<-m.ended
	return nil
}

// runManaged runs f, under Windows' service manager if that is who started the
// program. Other managers need no more than signals.
func runManaged(ctx context.Context, f func(context.Context) error) error {
	if runtime.GOOS != "windows" || sysservice.Interactive() {
		return f(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	m := managed{cancel: cancel, ended: make(chan struct{}), run: func() { failed = f(ctx) }}
	s, err := sysservice.New(m, &sysservice.Config{Name: serviceName})
	if err != nil {
		return serviceError("use", err)
	}
	return errors.Join(s.Run(), failed)
}

// printService says how the service is doing.
func printService(cmd *cobra.Command, s sysservice.Service, arguments []string) error {
	doc := managedDocument{Name: serviceName, Manager: s.Platform(), Arguments: arguments, State: "unknown", Next: "grid service install"}
	switch state, err := s.Status(); {
	case errors.Is(err, sysservice.ErrNotInstalled):
		doc.State = "not-installed"
	case err != nil:
		doc.State = "unknown: " + err.Error()
	case state == sysservice.StatusRunning:
		doc.State, doc.Next = "running", "grid status"
	case state == sysservice.StatusStopped:
		doc.State, doc.Next = "stopped", "look into its log"
		if runtime.GOOS == "linux" {
			doc.Next = "journalctl -u " + serviceName
		}
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "service-manager", doc)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  (%s)\n", doc.Name, doc.State, doc.Manager)
	cli.Note(cmd, "next: %s", doc.Next)
	return err
}

// serviceError explains what a service manager has refused.
func serviceError(what string, err error) error {
	next := "run it as an administrator: sudo grid service " + what
	if os.Geteuid() == 0 {
		next = "see what the service manager says; the unit to install by hand: grid service unit"
	}
	return &cli.Error{Object: "service " + serviceName, Cause: what + ": " + err.Error(), Next: next, Err: err}
}
