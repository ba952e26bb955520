// Package sdnotify tells systemd how a service of Type=notify is doing
// (sd_notify(3)). Without a service manager it does nothing.
package sdnotify

import (
	"net"
	"os"
	"strconv"
	"time"
)

// Messages.
const (
	Ready     = "READY=1"
	Reloading = "RELOADING=1"
	Stopping  = "STOPPING=1"
	Watchdog  = "WATCHDOG=1"
)

// Send sends a message, such as [Ready] or "STATUS=words", to the socket that
// NOTIFY_SOCKET names. It returns nil if there is none.
func Send(message string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	// A name that begins with @ is abstract; package net knows that too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(message))
	return err
}

// WatchdogInterval returns how often systemd wants to hear [Watchdog], half of
// the time after which it gives the process up; zero for never.
func WatchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 40)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Microsecond / 2
}
