package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	wgconn "golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// newWireguard is one end of a tunnel of wireguard-go, for comparisons.
func newWireguard() *cobra.Command {
	var w wireguardEnd
	cmd := &cobra.Command{
		Use:    "wireguard",
		Short:  "Run one end of a wireguard-go tunnel",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return w.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&w.name, "name", "wg0", "interface")
	f.IntVar(&w.mtu, "mtu", device.DefaultMTU, "its MTU")
	f.StringVar(&w.key, "key", "", "private key, in hex")
	f.StringVar(&w.peer, "peer", "", "public key of the other end, in hex")
	f.StringVar(&w.endpoint, "endpoint", "", "address of the other end")
	f.Uint16Var(&w.port, "port", 51820, "UDP port")
	f.StringVar(&w.address, "address", "", "address of this end in the tunnel")
	f.StringVar(&w.network, "network", "", "what is reached through it")
	return cmd
}

type wireguardEnd struct {
	name, key, peer, endpoint, address, network string
	mtu                                         int
	port                                        uint16
}

func (w *wireguardEnd) run(cmd *cobra.Command) error {
	t, err := tun.CreateTUN(w.name, w.mtu)
	if err != nil {
		return err
	}
	d := device.NewDevice(t, wgconn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wireguard: "))
	defer d.Close()
	err = d.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n",
		w.key, w.port, w.peer, w.endpoint, w.network))
	if err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(w.name)
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(w.address)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(p.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "up")
	select {
	case <-cmd.Context().Done():
	case <-d.Wait():
	}
	return nil
}
