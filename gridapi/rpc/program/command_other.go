//go:build !unix

package program

import (
	"context"
	"os/exec"
)

// command returns the program, which has no limits here but time and the size of
// its directory.
func command(ctx context.Context, cfg Config) *exec.Cmd {
	return exec.CommandContext(ctx, cfg.Path, cfg.Args...)
}

func reap(*exec.Cmd) {}
