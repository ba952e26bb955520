package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// clockSynchronised asks the kernel whether something keeps the clock right
// (adjtimex(2)).
func clockSynchronised() (yes, known bool) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unix.STA_UNSYNC == 0, true
}

// leastBuffer is the socket buffer below which bursts of a fast link get lost,
// in bytes. The transport asks for 7 MiB.
const leastBuffer = 1 << 20

// checkOffloads asks what the kernel offers for UDP: packets of several
// datagrams in both directions, and room for bursts.
func checkOffloads() (rows []checkResult) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		return []checkResult{failure("offloads", err, "ip address show lo")}
	}
	defer pc.Close()
	raw, err := pc.SyscallConn()
	if err != nil {
		return []checkResult{failure("offloads", err, "uname -r")}
	}
	var segment, receive error
	err = raw.Control(func(fd uintptr) {
		_, segment = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		receive = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
	if err != nil {
		return []checkResult{failure("offloads", err, "uname -r")}
	}
	for _, o := range []struct {
		name, since string
		err         error
	}{{"UDP_SEGMENT", "4.18", segment}, {"UDP_GRO", "5.0", receive}} {
		if o.err != nil {
			rows = append(rows, one("offloads", checkWarning, "a kernel from "+o.since+" on is faster: uname -r", "the kernel has no %s: %v", o.name, o.err)...)
		}
	}
	if b, err := os.ReadFile("/proc/sys/net/core/rmem_max"); err == nil && unix.Geteuid() != 0 {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < leastBuffer {
			rows = append(rows, one("offloads", checkWarning, fmt.Sprintf("sudo sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d", 7<<20, 7<<20), "sockets may buffer only %s, so bursts get lost on fast links", sizeText(int64(n)))...)
		}
	}
	if rows == nil {
		return one("offloads", checkOK, "", "UDP_SEGMENT and UDP_GRO work")
	}
	return rows
}
