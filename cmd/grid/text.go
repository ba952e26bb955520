package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// Every text that is shown for a path, a size or a time is made here.

func fileLine(path string, line int) string { return path + ":" + strconv.Itoa(line) }

func joinAddresses(list []netip.AddrPort) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// pathText names a path: "direct ADDRESS", or its kind with the reason why it
// is not direct.
func pathText(p overlay.PathStatus) string {
	switch {
	case p.Kind == "":
		return "no session"
	case p.Kind == overlay.KindDirect:
		return p.Kind + " " + p.Remote.String()
	case p.Relay != nil:
		return p.Kind + " through " + relayText(*p.Relay) + inBrackets(p.Reason)
	}
	return p.Kind + inBrackets(p.Reason)
}

// relayText names a relay: by its name, or else its peer ID.
func relayText(by overlay.RelayedBy) string {
	if by.Name == "" {
		return by.Peer.String()
	}
	return by.Name
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// sizeText writes a number of bytes for people.
func sizeText(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	x := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if x /= 1 << 10; x < 1<<10 {
			return fmt.Sprintf("%.1f %s", x, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", x/(1<<10))
}

// secondsText writes a short time: "0.213 s".
func secondsText(d time.Duration) string {
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s"
}

func rttText(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}

// milliseconds is a time in a JSON document.
func milliseconds(d time.Duration) cli.Number {
	return cli.Number(float64(d.Microseconds()) / 1000)
}

// ipText shows an address that may be missing.
func ipText(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
