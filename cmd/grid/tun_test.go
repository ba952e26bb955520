package main

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/tun"
)

func TestInterfaceStatus(t *testing.T) {
	s := agentStatus{Status: overlay.Status{PeerID: peerID(2)}, Interface: &tun.Status{
		Device: "grid0", MTU: 1280, Address: netip.MustParseAddr("100.90.17.153"), Address6: netip.MustParseAddr("fd2f:b674:2401::133c"),
		Peers: 2, Flows: 7,
		Counters: tun.Counters{
			PacketsSent: 10, BytesSent: 12_000, PacketsReceived: 5, BytesReceived: 400,
			Dropped: tun.Drops{Closed: 3, WrongSource: 1, Unreachable: 2, WaitingFull: 2},
		},
	}}
	var out bytes.Buffer
	if err := writeStatus(&out, s, time.Now()); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("status", "interface.txt"), out.String())
}
