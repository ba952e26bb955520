package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// stayOn starts this program again in place of this process, bound to one
// processor: only so are all of its threads, those of the runtime included.
func stayOn(cpu int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on processor %d: %w", cpu, err)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{program}, withoutCPU(os.Args[1:])...)
	return fmt.Errorf("start again: %w", unix.Exec(program, args, os.Environ()))
}
