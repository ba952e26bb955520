package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// upDocument is "instantgrid/up/1", printed once the agent is registered.
type upDocument struct {
	PeerID     ri2n.PeerID `json:"peer_id"`
	Name       string      `json:"name,omitempty"` // NAME.GRID.grid
	Rendezvous string      `json:"rendezvous"`
	Registered bool        `json:"registered"`       // false: it goes on trying
	Control    string      `json:"control"`          // the socket for other grid commands
	Config     string      `json:"config,omitempty"` // the file that was read
	Receive    string      `json:"receive,omitempty"`
	Metrics    string      `json:"metrics,omitempty"`   // URL of /metrics
	HTTP       string      `json:"http,omitempty"`      // URL of functions
	Interface  string      `json:"interface,omitempty"` // of --tun
	Next       string      `json:"next"`
}

func upCommand(o *options) *cobra.Command {
	c := new(configuration)
	var check bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the agent",
		Long: `Run the agent in the foreground: it stays registered at the rendezvous, lets in
the peers that are allowed, and answers the other grid commands of this user.
Nobody is allowed unless --allow, --allow-file or the file allow in the state
directory says so. In a grid (grid join), its members may ping, and may connect
to the ports that the file policy.yaml in the state directory opens to them; it
is read again when it changes. Members find each other on the local network, too.

With --tun it makes a network interface with this computer's addresses in the
grid, so that programs that know nothing of grid reach members, through a packet
filter with the ports of policy.yaml. What it changes in the system is undone when
it ends; if it was killed, by the next grid up, or by grid down.

Settings come from the file config.yaml in the state directory, or --config, and
flags come before it. grid config example prints one with every key explained;
--check says what is wrong with one, and where. A SIGHUP, or grid reload, reads
it again.

It prints the peer ID, and ends at an interrupt, SIGTERM or grid down.`,
		Example: `grid up --allow PEERID
grid up --allow-file peers.txt --receive /srv/inbox
grid up --tun
grid up --config grid.yaml --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if check {
				return o.checkConfig(cmd, c)
			}
			return runManaged(cmd.Context(), func(ctx context.Context) error { return o.up(ctx, cmd, c) })
		},
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "only check the settings and the files they name, and exit")
	return cmd
}

func (o *options) up(ctx context.Context, cmd *cobra.Command, c *configuration) error {
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	s, err := c.read(dir)
	if err != nil {
		return err
	}
	address, err := o.agentRendezvous(dir, s)
	if err != nil {
		return err
	}
	release, err := takeIdentity(dir)
	if err != nil {
		return takenOr(err, dir, "see what runs: grid status; or use another directory: --dir DIRECTORY")
	}
	defer release()
	a, err := startAgent(ctx, cmd, o, c, s, dir, address)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.announce(); err != nil {
		return err
	}
	a.run()
	return nil
}

// agentRendezvous returns the agent's rendezvous: the flag, the environment,
// the configuration, then the file.
func (o *options) agentRendezvous(dir string, s *settings) (string, error) {
	with := *o
	if with.rendezvous == "" && os.Getenv(rendezvousVariable) == "" {
		with.rendezvous = s.node.rendezvous
	}
	return with.meetingPoint(dir, "grid up")
}

// announce says who we are once the rendezvous knows us. One that cannot be
// reached now is no reason to give up; one that refuses us says why.
func (a *agent) announce() error {
	cmd, node, doc := a.cmd, a.node, a.doc
	ctx, cancel := context.WithTimeout(a.ctx, registerTimeout)
	defer cancel()
	err := node.Ready(ctx)
	if a.ctx.Err() != nil {
		return nil
	}
	status := node.Status()
	doc.PeerID, doc.Rendezvous, doc.Registered = node.PeerID(), status.Rendezvous.Address, status.Rendezvous.Registered
	doc.Next = "grid ping " + node.PeerID().String()
	if g := status.Grid; g != nil && g.Self != nil {
		doc.Name = fullName(g.Self.Name, g.Name)
		doc.Next = "grid ping " + doc.Name
	} else if g != nil {
		cli.Note(cmd, "grid: %s", g.Error)
	}
	if err != nil {
		e := explain(err)
		if e == nil {
			e = &cli.Error{Object: "rendezvous", Cause: err.Error()}
		}
		cli.Note(cmd, "grid: %s: %s; trying on\n  next: %s", e.Object, e.Cause, e.Next)
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "up", doc)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "peer ID     %s\n", doc.PeerID)
	if doc.Name != "" {
		fmt.Fprintf(w, "name        %s\n", doc.Name)
	}
	if doc.Interface != "" {
		fmt.Fprintf(w, "interface   %s\n", doc.Interface)
	}
	_, err = fmt.Fprintf(w, "rendezvous  %s\n", orText(doc.Rendezvous, "none: members are found on the local network"))
	if doc.Name != "" {
		cli.Note(cmd, "next, on another member of the grid: %s", doc.Next)
	} else {
		cli.Note(cmd, "next, on another computer that this one allows: grid ping --rendezvous %s %s", doc.Rendezvous, doc.PeerID)
	}
	return err
}

// receiveAll stores what allowed peers send until ctx ends.
func receiveAll(ctx context.Context, ln net.Listener, dir string, atOnce int, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, atOnce)
	for c := range accept(ln) {
		peer, known := overlay.PeerOf(c)
		select {
		case places <- struct{}{}:
		default:
			known = false
			log.Warn("no file taken: too many at once", "peer", peer)
		}
		if !known {
			c.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			receiveOne(ctx, c, peer, dir, log)
		})
	}
}

func receiveOne(ctx context.Context, c net.Conn, peer ri2n.PeerID, dir string, log *slog.Logger) {
	defer c.Close()
	begun := time.Now()
	r, err := transfer.Receive(ctx, c, transfer.ReceiveOptions{Dir: dir, From: peer.String()})
	if err == nil {
		log.Info("received", "file", r.Path, "bytes", r.Size, "sha256", r.Sum.String(), "peer", peer, "seconds", time.Since(begun).Seconds())
		return
	}
	if ctx.Err() != nil {
		return
	}
	var lost *transfer.LostError
	if errors.As(err, &lost) {
		log.Warn("file cut off; the sender may go on with it", "peer", peer, "err", lost.Err)
		return
	}
	log.Warn("file not received", "peer", peer, "err", err)
}
