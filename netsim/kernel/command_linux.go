package kernel

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// A Cmd is an exec.Cmd whose process runs inside a host. Set its fields and
// call its methods as those of exec.Cmd.
type Cmd struct {
	*exec.Cmd
	host *Host
}

// Command returns a command that runs inside the host, with loopback, the
// host's address and its routes. The process is killed when ctx ends, when the
// network is closed, and when this process ends.
//
// The file system is that of this process; /sys/class/net shows the devices
// of this process, too.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &Cmd{Cmd: cmd, host: h}
}

// Start starts the process and does not wait for it.
func (c *Cmd) Start() error {
	// The child inherits the namespace of the thread that forks, and the
	// signal of its death: the thread lives as long as the network.
	return c.host.node.ns.do(c.Cmd.Start)
}

// Run starts the process and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("kernel: Stdout already set")
	}
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and
// standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("kernel: Stdout or Stderr already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}
