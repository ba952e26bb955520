package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// tokenDocument is the first line of send --json without a peer: event
// "token" of "instantgrid/send/1".
type tokenDocument struct {
	Event   string    `json:"event"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	File    string    `json:"file"`
	Bytes   int64     `json:"bytes"`
	Next    string    `json:"next"`
}

type sendFlags struct {
	name     string
	valid    time.Duration
	patience time.Duration
	fresh    bool
	watch    bool
}

func sendCommand(o *options) *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send FILE [PEER]",
		Short: "Send a file",
		Long: `Send a file. Without a peer, print a one-time token and serve the file to
whoever brings it: grid recv TOKEN on any other computer, without configuration.
With a peer, deliver it to that peer, which waits with grid recv --allow or
grid up --receive.

It ends when the receiver has verified the SHA-256 of the whole file. Killed or
cut off on either side, the same command goes on where it stopped; the token
stays the same meanwhile.

With --json and without a peer, the first line tells the token and the last one
the result.`,
		Example: `grid send photos.tar
grid send photos.tar PEERID`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return o.livePeers(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
			}
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.valid <= 0 {
				return cli.Usagef("--valid "+f.valid.String(), "grid send --valid 24h FILE", "a token must be valid for some time")
			}
			src, err := transfer.Open(args[0], f.name)
			if err != nil {
				return err
			}
			defer src.Close()
			if len(args) == 2 {
				return o.sendTo(cmd, f, src, args[1])
			}
			return o.sendToken(cmd, f, src, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "`name` that the receiver sees (default the file's own)")
	flags.DurationVar(&f.valid, "valid", rendezvous.TokenLifetime, "how long the token may be used for the first time")
	flags.DurationVar(&f.patience, "retry-for", 10*time.Minute, "with a peer: how long to try again after the connection was lost")
	flags.BoolVar(&f.fresh, "new", false, "make a new token even if an interrupted run has left one for this file")
	flags.BoolVar(&f.watch, "watch", false, "with --json: also a line for each step of the progress")
	return cmd
}

// sendTo delivers to a peer that waits for it.
func (o *options) sendTo(cmd *cobra.Command, f sendFlags, src *transfer.Source, to string) error {
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	if err := o.checkPeer(dir, to); err != nil {
		return err
	}
	use := nodeUse{line: "grid send FILE PEER", taken: "wait for it or stop it, or use another directory that the peer allows: --dir DIRECTORY"}
	return o.withNode(cmd, dir, use, func(node *overlay.Node) error {
		peer, err := node.Resolve(cmd.Context(), to)
		if err != nil {
			return err
		}
		return deliver(cmd, f, src, node, peer)
	})
}

// deliver sends to a peer, over as many connections as it takes.
func deliver(cmd *cobra.Command, f sendFlags, src *transfer.Source, node *overlay.Node, peer ri2n.PeerID) error {
	r := newReport(cmd, "send", f.watch)
	defer r.closeBar()
	p := &persister{
		node: node,
		dial: func(ctx context.Context) (*overlay.Peer, net.Conn, error) {
			r.begin(peer, time.Now())
			p, err := node.Connect(ctx, peer)
			if err != nil {
				return nil, nil, err
			}
			c, err := p.Dial(ctx, portDeliver)
			return p, c, err
		},
		carry: func(ctx context.Context, c net.Conn) (transfer.Result, error) {
			result, err := transfer.Send(ctx, c, src, r.observer())
			return result, explainRefusedPort(err, peer)
		},
		patience: f.patience,
		report:   r,
		lost:     func(err error) { noteLost(cmd, err, f.patience) },
	}
	result, err := p.run(cmd.Context())
	if err != nil {
		return err
	}
	return r.print(result)
}

// sendToken makes a token and serves whoever brings it.
func (o *options) sendToken(cmd *cobra.Command, f sendFlags, src *transfer.Source, path string) error {
	ctx := cmd.Context()
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	address, err := o.needRendezvous(dir, "grid send FILE")
	if err != nil {
		return err
	}
	note, release, err := openNote(dir, path, src.Offer())
	if err != nil {
		return err
	}
	sent := false
	defer func() {
		if sent { // the node has ended by now
			note.remove()
		}
		release()
	}()
	id, err := note.takeIdentity(dir, f.fresh)
	if err != nil {
		return err
	}
	defer id.release()
	trace, endTrace, err := o.beginTrace(cmd)
	if err != nil {
		return err
	}
	defer endTrace()
	node, err := startNode(ctx, overlay.Config{Trace: trace, Dir: id.dir, Rendezvous: address.String()})
	if err != nil {
		return id.explain(err)
	}
	defer node.Close()
	// Listening before anybody knows the token, nobody comes too early.
	ln, err := node.Listen("tcp", ":"+portText(portFetch))
	if err != nil {
		return err
	}
	defer ln.Close()
	inv, err := findInvitation(ctx, cmd, node, note, f)
	if err != nil {
		return id.explain(err)
	}
	if err := printToken(cmd, inv, path, src.Offer().Size); err != nil {
		return err
	}
	r := newReport(cmd, "send", f.watch)
	defer r.closeBar()
	h := &host{
		node:  node,
		ln:    ln,
		admit: func(ctx context.Context, peer ri2n.PeerID) bool { return isGuest(ctx, inv, peer) },
		carry: func(ctx context.Context, _ ri2n.PeerID, c net.Conn) (transfer.Result, error) {
			return transfer.Send(ctx, c, src, r.observer())
		},
		ends:    func(err error) bool { return !receiverMayReturn(err) },
		report:  r,
		lost:    func(err error) { noteWaiting(cmd, err) },
		expired: expiry(ctx, inv),
	}
	result, err := h.run(ctx)
	var unused *rendezvous.TokenError
	if errors.As(err, &unused) {
		return &cli.Error{
			Object: "token", Cause: "nobody has used it until " + inv.Expiry().Format(time.DateTime),
			Next: "make another, for longer: grid send --valid 24h FILE", Err: err,
		}
	}
	if err != nil {
		return err
	}
	// The token has done its work. What is left of it would expire by itself.
	_ = inv.Close()
	sent = true
	return r.print(result)
}

// findInvitation takes up the token of an interrupted run, or makes one.
func findInvitation(ctx context.Context, cmd *cobra.Command, node *overlay.Node, note *sendNote, f sendFlags) (*overlay.Invitation, error) {
	for _, inv := range node.Invitations() {
		if inv.Token != note.Token {
			continue
		}
		if f.fresh {
			if err := inv.Close(); err != nil {
				return nil, err
			}
			break
		}
		if guest, begun := inv.Guest(); begun {
			cli.Note(cmd, "going on with peer %s, who has begun to fetch this file; for somebody else: grid send --new FILE", guest.Short())
		} else {
			cli.Note(cmd, "this file's token from an earlier run still holds; for another one: grid send --new FILE")
		}
		return inv, nil
	}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	inv, err := node.Invite(ctx, f.valid)
	if err != nil {
		return nil, err
	}
	note.Token = inv.Token
	return inv, note.save()
}

func printToken(cmd *cobra.Command, inv *overlay.Invitation, path string, size int64) error {
	next := "grid recv TOKEN"
	if cli.JSON(cmd) {
		return cli.PrintJSONLine(cmd, "send", tokenDocument{
			Event: "token", Token: inv.Token, Expires: inv.Expiry().UTC(), File: path, Bytes: size, Next: next,
		})
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), inv.Token); err != nil {
		return err
	}
	cli.Note(cmd, "next, on the other computer, with this token: %s\nIt lets one receiver in, until %s. Waiting.", next, inv.Expiry().Format(time.DateTime))
	return nil
}

// isGuest reports whether peer is the one that the token has let in. The proof
// and the first connection may overtake each other by a moment.
func isGuest(ctx context.Context, inv *overlay.Invitation, peer ri2n.PeerID) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	guest, err := inv.Wait(ctx)
	return err == nil && guest == peer
}

// expiry tells when the token has run out unused.
func expiry(ctx context.Context, inv *overlay.Invitation) <-chan error {
	c := make(chan error, 1)
	go func() {
		if _, err := inv.Wait(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			c <- err
		}
	}()
	return c
}

// receiverMayReturn reports whether the receiver may come again after err and
// find the sender as it was.
func receiverMayReturn(err error) bool {
	var lost *transfer.LostError
	var told *transfer.AbortError
	return errors.As(err, &lost) || errors.As(err, &told) && told.Temporary() || errors.Is(err, context.Canceled)
}

func noteWaiting(cmd *cobra.Command, err error) {
	e := explain(err)
	if e == nil {
		e = &cli.Error{Object: "the connection", Cause: err.Error()}
	}
	cli.Note(cmd, "grid: %s: %s; waiting for the receiver to come again", e.Object, e.Cause)
}

func noteLost(cmd *cobra.Command, err error, patience time.Duration) {
	e := explain(err)
	if e == nil {
		e = &cli.Error{Object: "the connection", Cause: err.Error()}
	}
	cli.Note(cmd, "grid: %s: %s; trying again for %v", e.Object, e.Cause, patience)
}
