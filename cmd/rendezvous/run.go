package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// started is the document "instantgrid/rendezvous/1", printed once the server
// answers.
type started struct {
	Address rendezvous.Address `json:"address"`
	Peer    ri2n.PeerID        `json:"peer"`
	Listen  []string           `json:"listen"`
	STUN    []string           `json:"stun"`
	Metrics string             `json:"metrics"` // empty: none
	Admit   string             `json:"admit"`
	Members int                `json:"members"`
	Grids   int                `json:"grids"`           // that the ledger keeps
	Claim   string             `json:"claim,omitempty"` // sets up the first grid
	Dir     string             `json:"dir"`
}

// checked is the document "instantgrid/rendezvous-check/1".
type checked struct {
	OK      bool   `json:"ok"`
	Dir     string `json:"dir"`
	Peer    string `json:"peer"` // empty: the key is made at the first start
	Members int    `json:"members"`
}

func run(cmd *cobra.Command, o options) error {
	mode, limits, err := o.validate()
	if err != nil {
		return err
	}
	dir, err := stateDir(o.dir)
	if err != nil {
		return err
	}
	var members []ri2n.PeerID
	if o.members != "" {
		if members, err = server.ReadMembers(o.members); err != nil {
			return err
		}
	}
	id, err := loadIdentity(dir, !o.check)
	if err != nil {
		return err
	}
	if o.check {
		return printCheck(cmd, dir, id, len(members))
	}
	log := newLogger(cmd, o.verbose)
	grids, claim, closeLedger, err := openLedger(cmd.Context(), o, mode, dir, id)
	if err != nil {
		return err
	}
	defer closeLedger()

	sockets, err := listenAll("--listen", o.listen)
	if err != nil {
		return err
	}
	var alternate []net.PacketConn
	if o.stunListen != "" {
		if alternate, err = listenAll("--stun-listen", o.stunListen); err != nil {
			closeAll(sockets)
			return err
		}
	}
	other, err := listenOther(o.alternate, sockets, alternate)
	if err != nil {
		closeAll(sockets)
		closeAll(alternate)
		return err
	}
	alternate, first := append(alternate, other...), len(alternate)
	var metrics net.Listener
	if o.metricsListen != "" {
		if metrics, err = net.Listen("tcp", o.metricsListen); err != nil {
			closeAll(sockets)
			closeAll(alternate)
			return listenError("--metrics-listen", "tcp", o.metricsListen, err)
		}
	}
	// Servers own their sockets, so that their addresses are noted before.
	doc := started{
		Peer:    id.PeerID(),
		Listen:  addressesOf(sockets),
		STUN:    addressesOf(append(append([]net.PacketConn(nil), sockets...), alternate...)),
		Admit:   mode.String(),
		Members: len(members),
		Claim:   claim,
		Dir:     dir,
	}
	if grids != nil {
		doc.Grids, _, _ = grids.Counts()
	}
	host, guessed := publicHost(o.publicHost, sockets)
	doc.Address = rendezvous.Address{Host: host, Port: sockets[0].LocalAddr().(*net.UDPAddr).AddrPort().Port(), Peer: id.PeerID()}
	if _, err := rendezvous.ParseAddress(doc.Address.String()); err != nil {
		closeAll(sockets)
		closeAll(alternate)
		if metrics != nil {
			metrics.Close()
		}
		return cli.Usagef("--public-host "+o.publicHost, "rendezvous --public-host NAME", "%v", err.(*rendezvous.AddressError).Problem)
	}
	s, err := server.New(server.Config{
		Identity:  id,
		Listen:    sockets,
		Alternate: alternate[:first],
		Other:     other,
		Witness:   listenWitness(sockets),
		Mode:      mode,
		Members:   members,
		Limits:    limits,
		Logger:    log,

		Ledger:       grids,
		LedgerShared: len(o.etcd) > 0,
	})
	if err != nil {
		if metrics != nil {
			metrics.Close()
		}
		return err
	}

	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var running sync.WaitGroup
	web := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	if metrics != nil {
		doc.Metrics = "http://" + metrics.Addr().String()
		running.Go(func() {
			if err := web.Serve(metrics); !errors.Is(err, http.ErrServerClosed) {
				log.Error("metrics", "err", err)
			}
		})
	}
	if o.members != "" {
		running.Go(func() { watch(ctx, o.members, s, log) })
	}
	err = announce(cmd, doc, guessed, o)
	if err == nil {
		<-ctx.Done()
		log.Info("stopping")
	}
	cancel()
	s.Close()
	web.Close()
	running.Wait()
	return err
}

// watch keeps the members up to date.
func watch(ctx context.Context, file string, s *server.Server, log *slog.Logger) {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	known := -1
	server.WatchMembers(ctx, file, time.Second, reload,
		func(members []ri2n.PeerID) {
			s.SetMembers(members)
			if known >= 0 || len(members) == 0 {
				log.Info("members read", "file", file, "members", len(members))
			}
			known = len(members)
		},
		func(err error) {
			log.Error("members file not read; the members stay as they were", "err", err)
		})
}

// announce prints the address on the standard output, and what else a person
// should know on the standard error.
func announce(cmd *cobra.Command, doc started, guessed bool, o options) error {
	if cli.JSON(cmd) {
		if err := cli.PrintJSON(cmd, "rendezvous", doc); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(cmd.OutOrStdout(), doc.Address); err != nil {
		return err
	}
	if guessed {
		cli.Note(cmd, "rendezvous: the host %s is a guess; name the one that agents reach with --public-host", doc.Address.Host)
	}
	if doc.Admit != "open" && doc.Members == 0 && doc.Grids == 0 {
		cli.Note(cmd, "rendezvous: nobody is served yet: set up a grid, name a file of peer IDs with --members, or serve everybody with --admit open")
	}
	if doc.Claim != "" {
		cli.Note(cmd, "rendezvous: next, to make a grid of your own: grid init NAME --rendezvous %s --claim %s", doc.Address, doc.Claim)
	}
	cli.Note(cmd, "rendezvous: next, on each computer: grid up --rendezvous %s", doc.Address)
	return nil
}

func printCheck(cmd *cobra.Command, dir string, id *ri2n.Identity, members int) error {
	doc := checked{OK: true, Dir: dir, Members: members}
	if id != nil {
		doc.Peer = id.PeerID().String()
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "rendezvous-check", doc)
	}
	peer := doc.Peer
	if peer == "" {
		peer = "made at the first start"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "ok: key %s, %d members\n", peer, members)
	return err
}

func newLogger(cmd *cobra.Command, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	w := cmd.ErrOrStderr()
	if cli.JSON(cmd) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// listenAll binds address: one socket, or without a host one for each address
// family that this computer has, on the same port.
func listenAll(flag, address string) ([]net.PacketConn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, cli.Usagef(flag+" "+address, "rendezvous "+flag+" :3478", "it is not ADDRESS:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, cli.Usagef(flag+" "+address, "rendezvous "+flag+" :3478", "the port is not a number from 0 to 65535")
	} else {
		port = strconv.FormatUint(n, 10)
	}
	if host != "" {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(host, port))
		if err != nil {
			return nil, listenError(flag, "udp", address, err)
		}
		return []net.PacketConn{pc}, nil
	}
	v4, err := net.ListenPacket("udp4", net.JoinHostPort("0.0.0.0", port))
	if err != nil {
		return nil, listenError(flag, "udp", address, err)
	}
	if port == "0" {
		port = strconv.Itoa(v4.LocalAddr().(*net.UDPAddr).Port)
	}
	v6, err := net.ListenPacket("udp6", net.JoinHostPort("::", port))
	if errors.Is(err, syscall.EADDRINUSE) {
		v4.Close()
		return nil, listenError(flag, "udp", address, err)
	}
	if err != nil { // no IPv6 here
		return []net.PacketConn{v4}, nil
	}
	return []net.PacketConn{v4, v6}, nil
}

// listenWitness opens a socket on any port beside the IPv4 socket of sessions, if
// it can: without it mapped ports are proved from the port that was asked.
func listenWitness(sockets []net.PacketConn) []net.PacketConn {
	for _, pc := range sockets {
		if a := pc.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); a.Is4() {
			if w, err := net.ListenPacket("udp4", netip.AddrPortFrom(a, 0).String()); err == nil {
				return []net.PacketConn{w}
			}
		}
	}
	return nil
}

// listenOther binds the sockets of behavior discovery on a second address: the
// ports of sockets and of alternate again.
func listenOther(address string, sockets, alternate []net.PacketConn) ([]net.PacketConn, error) {
	if address == "" {
		return nil, nil
	}
	flag := "--alternate " + address
	example := "rendezvous --listen 192.0.2.1:3478 --stun-listen 192.0.2.1:3479 --alternate 192.0.2.2"
	other, err := netip.ParseAddr(address)
	if err != nil || other.IsUnspecified() {
		return nil, cli.Usagef(flag, example, "it is not an address of this host")
	}
	if len(sockets) != 1 || len(alternate) != 1 {
		return nil, cli.Usagef(flag, example, "--listen and --stun-listen must name one address, which is not this one")
	}
	var list []net.PacketConn
	for _, pc := range []net.PacketConn{sockets[0], alternate[0]} {
		a := pc.LocalAddr().(*net.UDPAddr).AddrPort()
		if a.Addr().IsUnspecified() || a.Addr().Unmap() == other || a.Addr().Unmap().Is4() != other.Is4() {
			closeAll(list)
			return nil, cli.Usagef(flag, example, "--listen and --stun-listen must name another address of its family")
		}
		at := netip.AddrPortFrom(other, a.Port()).String()
		next, err := net.ListenPacket("udp", at)
		if err != nil {
			closeAll(list)
			return nil, listenError("--alternate", "udp", at, err)
		}
		list = append(list, next)
	}
	return list, nil
}

func closeAll(sockets []net.PacketConn) {
	for _, pc := range sockets {
		pc.Close()
	}
}

func addressesOf(sockets []net.PacketConn) []string {
	list := make([]string, len(sockets))
	for i, pc := range sockets {
		list[i] = pc.LocalAddr().String()
	}
	return list
}

// publicHost returns the host to print, and whether it is only a guess: the
// address that this computer would use toward the Internet.
func publicHost(given string, sockets []net.PacketConn) (host string, guessed bool) {
	if given != "" {
		return given, false
	}
	if addr := sockets[0].LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); !addr.IsUnspecified() {
		return addr.WithZone("").String(), false
	}
	// Connecting a UDP socket sends nothing; it asks the routing table. The
	// addresses are for documentation (RFC 5737, RFC 3849).
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		addr := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		if addr.IsValid() && !addr.IsUnspecified() {
			return addr.WithZone("").String(), true
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}).String(), true
}
