//go:build !linux

package main

import "syscall"

// dieWithParent changes nothing here: a worker whose parent is gone reads the
// end of its input and ends.
func dieWithParent() *syscall.SysProcAttr { return nil }
