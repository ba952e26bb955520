//go:build unix

package main

import "syscall"

// What puts a process to sleep and wakes it.
const (
	sleepSignal = syscall.SIGSTOP
	wakeSignal  = syscall.SIGCONT
)
