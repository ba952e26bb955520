//go:build unix && !linux

package program

import "syscall"

// attributes put a run into a process group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
