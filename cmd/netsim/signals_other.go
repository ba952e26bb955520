//go:build !unix

package main

import "os"

// There are no namespaces here either.
var sleepSignal, wakeSignal = os.Kill, os.Kill
