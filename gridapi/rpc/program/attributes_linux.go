package program

import (
	"os"
	"syscall"
)

// attributes put a run into a process group of its own and, as root, into a PID
// namespace of its own: when the program ends, everything that it has started
// ends, also what has left the group.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		a.Cloneflags = syscall.CLONE_NEWPID
	}
	return a
}
