package main

import "golang.org/x/sys/unix"

// setCongestion selects the congestion control of a TCP socket.
func setCongestion(fd uintptr, name string) error {
	return unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
}
