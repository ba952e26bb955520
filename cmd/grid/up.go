package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
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
	Registered bool        `json:"registered"` // false: it goes on trying
	Control    string      `json:"control"`    // the socket for grid status and grid ping
	Receive    string      `json:"receive,omitempty"`
	Metrics    string      `json:"metrics,omitempty"` // URL of /metrics
	Next       string      `json:"next"`
}

type upFlags struct {
	allow      []string
	allowFile  string
	listenPort uint16
	receive    string
	metrics    string
	verbose    bool
}

// maxReceiving is how many files an agent receives at once.
const maxReceiving = 8

func upCommand(o *options) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the agent",
		Long: `Run the agent in the foreground: it stays registered at the rendezvous, lets in
the peers that are allowed, and answers grid status and grid ping of this user.
Nobody is allowed unless --allow, --allow-file or the file allow in the state
directory says so. In a grid (grid join), its members may ping, and may connect
to the ports that the file policy.yaml in the state directory opens to them; it
is read again when it changes. Members find each other on the local network, too.

It prints the peer ID, and ends at an interrupt.`,
		Example: `grid up --allow PEERID
grid up --allow-file peers.txt --receive /srv/inbox`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return o.up(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.allow, "allow", nil, "`PEERID` that may connect; may be repeated")
	flags.StringVar(&f.allowFile, "allow-file", "", "`file` of peer IDs that may connect, one to a line")
	flags.Uint16Var(&f.listenPort, "listen-port", 0, "UDP `port` (default any)")
	flags.StringVar(&f.receive, "receive", "", "store files that allowed peers send in this `directory`")
	flags.StringVar(&f.metrics, "metrics", "", "serve /metrics for Prometheus at this HTTP `address`; :9479 is port 9479 on loopback (default off)")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	return cmd
}

func (o *options) up(cmd *cobra.Command, f upFlags) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	allowed, err := parsePeers(f.allow, "--allow")
	if err != nil {
		return err
	}
	more, err := readAllowFile(f.allowFile)
	if err != nil {
		return err
	}
	if f.receive != "" {
		if err := (recvFlags{output: f.receive}).checkOutput(); err != nil {
			return err
		}
	}
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	address, err := o.meetingPoint(dir, "grid up")
	if err != nil {
		return err
	}
	release, err := takeIdentity(dir)
	if err != nil {
		return takenOr(err, dir, "see what runs: grid status; or use another directory: --dir DIRECTORY")
	}
	defer release()
	log := newLogger(cmd, f.verbose)
	trace, endTrace, err := o.beginTrace(cmd)
	if err != nil {
		return err
	}
	defer endTrace()
	web, err := listenMetrics(f.metrics)
	if err != nil {
		return err
	}
	if web != nil {
		defer web.Close()
	}
	node, err := overlay.Start(ctx, overlay.Config{
		Trace: trace,
		Dir:   dir, Rendezvous: address, NoDiscovery: o.noDiscovery, Allow: append(allowed, more...), ListenPort: f.listenPort, Logger: log,
	})
	if err != nil {
		return err
	}
	defer node.Close()
	control, err := serveControl(dir, node)
	if err != nil {
		return err
	}
	defer control.Close()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if web != nil {
		running.Go(func() { serveMetrics(ctx, web, node, log) })
	}
	if f.receive != "" {
		ln, err := node.Listen("tcp", ":"+portText(portDeliver))
		if err != nil {
			return err
		}
		running.Go(func() { receiveAll(ctx, ln, f.receive, log) })
		defer ln.Close()
	}
	if err := announceUp(cmd, f, dir, node, web); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// announceUp says who we are once the rendezvous knows us. One that cannot be
// reached now is no reason to give up; one that refuses us says why.
func announceUp(cmd *cobra.Command, f upFlags, dir string, node *overlay.Node, web net.Listener) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), registerTimeout)
	defer cancel()
	err := node.Ready(ctx)
	if cmd.Context().Err() != nil {
		return nil
	}
	status := node.Status()
	doc := upDocument{
		PeerID: node.PeerID(), Rendezvous: status.Rendezvous.Address, Registered: status.Rendezvous.Registered,
		Control: filepath.Join(dir, socketFile), Receive: f.receive,
		Next: "grid ping " + node.PeerID().String(),
	}
	if g := status.Grid; g != nil && g.Self != nil {
		doc.Name = fullName(g.Self.Name, g.Name)
		doc.Next = "grid ping " + doc.Name
	} else if g != nil {
		cli.Note(cmd, "grid: %s", g.Error)
	}
	if web != nil {
		doc.Metrics = "http://" + web.Addr().String() + "/metrics"
		cli.Note(cmd, "metrics: %s", doc.Metrics)
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
	_, err = fmt.Fprintf(w, "rendezvous  %s\n", orText(doc.Rendezvous, "none: members are found on the local network"))
	if doc.Name != "" {
		cli.Note(cmd, "next, on another member of the grid: %s", doc.Next)
	} else {
		cli.Note(cmd, "next, on another computer that this one allows: grid ping --rendezvous %s %s", doc.Rendezvous, doc.PeerID)
	}
	return err
}

// receiveAll stores what allowed peers send until ctx ends.
func receiveAll(ctx context.Context, ln net.Listener, dir string, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxReceiving)
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

func newLogger(cmd *cobra.Command, verbose bool) *slog.Logger {
	opt := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		opt.Level = slog.LevelDebug
	}
	if cli.JSON(cmd) {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), opt))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), opt))
}
