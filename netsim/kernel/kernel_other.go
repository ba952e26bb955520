//go:build !linux

package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"

	"github.com/instantgrid/instantgrid/netsim"
)

func notHere() error {
	return fmt.Errorf("kernel: not on %s: %w", runtime.GOOS, ErrNotPermitted)
}

// A Network is a scenario that runs in network namespaces, which this system
// does not have.
type Network struct{}

// Check returns an error that wraps ErrNotPermitted.
func Check() error { return notHere() }

// Start returns an error that wraps ErrNotPermitted.
func Start(netsim.Scenario) (*Network, error) { return nil, notHere() }

// Host returns nil.
func (n *Network) Host(string) netsim.Host { return nil }

// Reboot returns an error that wraps ErrNotPermitted, as all methods do here.
func (n *Network) Reboot(string) error { return notHere() }

// SetUplink returns an error.
func (n *Network) SetUplink(string, netsim.Link) error { return notHere() }

// Uplink returns an error.
func (n *Network) Uplink(string) (netsim.Link, error) { return netsim.Link{}, notHere() }

// Block returns an error.
func (n *Network) Block(a, b string) error { return notHere() }

// Unblock returns an error.
func (n *Network) Unblock(a, b string) error { return notHere() }

// CoreDrops returns nothing.
func (n *Network) CoreDrops() (noRoute, blocked uint64) { return 0, 0 }

// Counters returns an error.
func (n *Network) Counters(string) (up, down Counters, err error) { return up, down, notHere() }

// Close does nothing.
func (n *Network) Close() error { return nil }

// A Pair is two hosts joined by links, which this system does not have.
type Pair struct{}

// StartPair returns an error that wraps ErrNotPermitted.
func StartPair(uint64, ...netsim.Link) (*Pair, error) { return nil, notHere() }

// PairDevice returns nothing.
func PairDevice(int) string { return "" }

// Host returns nil.
func (p *Pair) Host(int) *Host { return nil }

// Addr returns the zero address.
func (p *Pair) Addr(host, i int) netip.Addr { return netip.Addr{} }

// SetLink returns an error.
func (p *Pair) SetLink(int, netsim.Link) error { return notHere() }

// Counters returns nothing.
func (p *Pair) Counters(int) (up, down Counters) { return up, down }

// Close does nothing.
func (p *Pair) Close() error { return nil }

// A LAN is hosts on one Ethernet.
type LAN struct{}

// StartLAN returns an error.
func StartLAN(int) (*LAN, error) { return nil, notHere() }

// Host returns nil.
func (l *LAN) Host(int) *Host { return nil }

// Unplug returns an error.
func (l *LAN) Unplug(int) error { return notHere() }

// Plug returns an error.
func (l *LAN) Plug(int) error { return notHere() }

// Close does nothing.
func (l *LAN) Close() error { return nil }

// A Host is a computer of a running network.
type Host struct{}

// Name returns nothing.
func (h *Host) Name() string { return "" }

// Addr returns the zero address.
func (h *Host) Addr() netip.Addr { return netip.Addr{} }

// Do returns an error.
func (h *Host) Do(func() error) error { return notHere() }

// ListenPacket returns an error.
func (h *Host) ListenPacket(context.Context, uint16) (net.PacketConn, error) { return nil, notHere() }

// Listen returns an error.
func (h *Host) Listen(context.Context, uint16) (net.Listener, error) { return nil, notHere() }

// Dial returns an error.
func (h *Host) Dial(context.Context, netip.AddrPort) (net.Conn, error) { return nil, notHere() }

// Command returns a command that does not start.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Cmd: exec.CommandContext(ctx, name, args...)}
}

// A Cmd is an exec.Cmd whose process would run inside a host.
type Cmd struct{ *exec.Cmd }

// Start returns an error, as the methods that call it do.
func (c *Cmd) Start() error { return notHere() }

// Run returns an error.
func (c *Cmd) Run() error { return notHere() }

// Output returns an error.
func (c *Cmd) Output() ([]byte, error) { return nil, notHere() }

// CombinedOutput returns an error.
func (c *Cmd) CombinedOutput() ([]byte, error) { return nil, notHere() }
