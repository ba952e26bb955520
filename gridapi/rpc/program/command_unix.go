//go:build unix

package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// command returns the program with its limits, in a process group of its own.
// The shell sets the limits, which hold for all that the program starts, and is
// then replaced by the program.
func command(ctx context.Context, cfg Config) *exec.Cmd {
	script := ""
	if cfg.Memory > 0 {
		script += "ulimit -v " + strconv.FormatInt(cfg.Memory/1024, 10) + " && "
	}
	if cfg.Disk > 0 {
		script += "ulimit -f " + strconv.FormatInt((cfg.Disk+511)/512, 10) + " && "
	}
	script += `ulimit -c 0 && exec "$@"`
	args := append([]string{"-c", script, "sh", cfg.Path}, cfg.Args...)
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	cmd.SysProcAttr = attributes()
	// Asked politely first; Wait kills after its delay, and reap what is left.
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	return cmd
}

// reap kills what the program has left behind in its process group.
func reap(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
