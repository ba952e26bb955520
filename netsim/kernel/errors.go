package kernel

import "errors"

// ErrNotPermitted reports that this process or system may not or cannot make
// namespaces, TUN devices or nftables rules. The text of errors that wrap it
// is one line that says what is missing. The simulator needs none of these.
var ErrNotPermitted = errors.New("needs root on Linux with network namespaces, TUN devices and nftables")

// ErrUnsupported reports a scenario that the kernel cannot run; see Supports.
var ErrUnsupported = errors.New("not possible in the kernel")
