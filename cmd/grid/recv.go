package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

type recvFlags struct {
	output    string
	name      string
	force     bool
	allow     []string
	allowFile string
	patience  time.Duration
	watch     bool
}

func recvCommand(o *options) *cobra.Command {
	var f recvFlags
	cmd := &cobra.Command{
		Use:   "recv [TOKEN]",
		Short: "Receive a file",
		Long: `Receive a file. With a token, as grid send FILE prints it, fetch that file; the
token is all that is needed. A dash reads the token from the standard input.
Without a token, wait for one file of a peer that --allow or --allow-file names
or that the file allow in the state directory lists, who types grid send FILE
PEER.

The file appears under its name once its SHA-256 is verified. Until then it is
NAME.part; killed or cut off, the same command goes on where it stopped.`,
		Example: `grid recv TOKEN
grid recv --allow PEERID --output /srv/inbox`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return o.recvFrom(cmd, f)
			}
			token := args[0]
			if token == "-" {
				line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4<<10)).ReadString('\n')
				if err != nil && err != io.EOF {
					return err
				}
				token = line
			}
			return o.recvToken(cmd, f, token)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", ".", "`directory` for the file")
	flags.StringVar(&f.name, "name", "", "`name` for the file (default the sender's)")
	flags.BoolVar(&f.force, "force", false, "replace a file of that name, or the rest of another transfer")
	flags.StringSliceVar(&f.allow, "allow", nil, "without a token: `PEERID` that may send; may be repeated")
	flags.StringVar(&f.allowFile, "allow-file", "", "without a token: `file` of peer IDs that may send, one to a line")
	flags.DurationVar(&f.patience, "retry-for", 10*time.Minute, "how long to try again after the connection was lost")
	flags.BoolVar(&f.watch, "watch", false, "with --json: also a line for each step of the progress")
	return cmd
}

// options returns where a file of the given sender goes.
func (f recvFlags) options(from ri2n.PeerID, r *report) transfer.ReceiveOptions {
	return transfer.ReceiveOptions{
		Dir: f.output, Name: f.name, Overwrite: f.force, From: from.String(), Observer: r.observer(),
	}
}

// checkOutput fails early where no file can be put.
func (f recvFlags) checkOutput() error {
	info, err := os.Stat(f.output)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return cli.Usagef(f.output, "name the file itself with --name, and its directory with --output", "this is not a directory")
	}
	return nil
}

// recvToken fetches the file that a token stands for.
func (o *options) recvToken(cmd *cobra.Command, f recvFlags, text string) error {
	ctx := cmd.Context()
	token, err := rendezvous.ParseToken(text)
	if err == nil {
		err = token.Check(time.Now())
	}
	if err != nil {
		return err
	}
	if err := f.checkOutput(); err != nil {
		return err
	}
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	note, err := openRecvNote(dir, token.Encode())
	if err != nil {
		return err
	}
	// The token's guest is an identity of its own: the one that comes again
	// after an interruption, and nobody that others know.
	own := filepath.Join(note.dir, "node")
	if err := os.MkdirAll(own, 0o700); err != nil {
		return err
	}
	release, err := takeIdentity(own)
	if err != nil {
		return takenOr(err, "token", "another grid recv is fetching this file; wait for it")
	}
	defer release()
	trace, endTrace, err := o.beginTrace(cmd)
	if err != nil {
		return err
	}
	defer endTrace()
	node, err := overlay.Start(ctx, overlay.Config{Trace: trace, Dir: own})
	if err != nil {
		return err
	}
	defer node.Close()
	r := newReport(cmd, "recv", f.watch)
	defer r.closeBar()
	p := &persister{
		node: node,
		dial: func(ctx context.Context) (*overlay.Peer, net.Conn, error) {
			p, dialed, err := redeem(ctx, node, text)
			if err != nil {
				return nil, nil, err
			}
			r.begin(token.Sender, dialed)
			c, err := p.Dial(ctx, portFetch)
			return p, c, err
		},
		carry: func(ctx context.Context, c net.Conn) (transfer.Result, error) {
			opt := f.options(token.Sender, r)
			opt.Finished = note.finished()
			return transfer.Receive(ctx, c, opt)
		},
		patience: f.patience,
		report:   r,
		lost:     func(err error) { noteLost(cmd, err, f.patience) },
	}
	result, err := p.run(ctx)
	if err != nil {
		if earlier := note.finished(); earlier != nil && ctx.Err() == nil && earlier.Verify() == nil {
			cli.Note(cmd, "this file was received before, and is still there; the sender is not any more")
			r.begin(token.Sender, time.Time{})
			return r.print(*earlier)
		}
		return explainGone(err, token)
	}
	if err := note.done(result, token.Sender); err != nil {
		return err
	}
	return r.print(result)
}

// redeem is node.Redeem, and the time when it dialed the sender: at once, or as
// soon as the rendezvous had let us in.
func redeem(ctx context.Context, node *overlay.Node, token string) (p *overlay.Peer, dialed time.Time, err error) {
	listening, stop := context.WithCancel(ctx)
	defer stop()
	events := node.Events(listening)
	dialed = time.Now()
	if p, err = node.Redeem(ctx, token); err != nil {
		return nil, dialed, err
	}
	for {
		select {
		case e, open := <-events:
			if !open {
				return p, dialed, nil
			}
			if e.Kind == overlay.EventRendezvousUp {
				dialed = e.Time
			}
		default:
			return p, dialed, nil
		}
	}
}

// explainGone says what to do about a sender that is not there.
func explainGone(err error, t *rendezvous.Token) error {
	if !errors.Is(err, rendezvous.ErrPeerUnknown) {
		return err
	}
	return &cli.Error{
		Object: "sender " + t.Sender.Short(),
		Cause:  "it is not there: grid send was stopped, or its computer is off",
		Next:   "have the same grid send FILE started again there, and run this again: the token holds until " + t.Expiry.Local().Format(time.DateTime),
		Code:   cli.ExitUnreachable,
		Err:    err,
	}
}

// recvFrom waits for a file of a peer that may send.
func (o *options) recvFrom(cmd *cobra.Command, f recvFlags) error {
	if err := f.checkOutput(); err != nil {
		return err
	}
	allowed, err := parsePeers(f.allow, "--allow")
	if err != nil {
		return err
	}
	more, err := readAllowFile(f.allowFile)
	if err != nil {
		return err
	}
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	listed, err := readAllowed(dir)
	if err != nil {
		return err
	}
	if len(allowed)+len(more)+len(listed) == 0 {
		return cli.Usagef("grid recv", "grid recv TOKEN, or grid recv --allow PEERID with what grid id prints on the sender's computer", "nobody may send, since no token is given and no peer is allowed")
	}
	use := nodeUse{line: "grid recv", taken: "have the agent receive: grid up --receive DIRECTORY; or stop the other command", allow: append(allowed, more...)}
	return o.withNode(cmd, dir, use, func(node *overlay.Node) error { return takeDelivery(cmd, f, node) })
}

// takeDelivery receives one file from the first peer that comes with one.
func takeDelivery(cmd *cobra.Command, f recvFlags, node *overlay.Node) error {
	ln, err := node.Listen("tcp", ":"+portText(portDeliver))
	if err != nil {
		return err
	}
	defer ln.Close()
	cli.Note(cmd, "next, on the other computer: grid send FILE %s", node.PeerID())
	r := newReport(cmd, "recv", f.watch)
	defer r.closeBar()
	var first ri2n.PeerID // who has begun
	h := &host{
		node: node,
		ln:   ln,
		admit: func(_ context.Context, peer ri2n.PeerID) bool {
			if first.IsZero() {
				first = peer
			}
			return first == peer
		},
		carry: func(ctx context.Context, peer ri2n.PeerID, c net.Conn) (transfer.Result, error) {
			return transfer.Receive(ctx, c, f.options(peer, r))
		},
		ends: func(err error) bool {
			var lost *transfer.LostError
			return !errors.As(err, &lost)
		},
		report:   r,
		lost:     func(err error) { noteLost(cmd, err, f.patience) },
		patience: f.patience,
	}
	result, err := h.run(cmd.Context())
	if err != nil {
		return err
	}
	return r.print(result)
}

// readAllowed returns the peers in the state directory's allow list.
func readAllowed(dir string) ([]ri2n.PeerID, error) {
	path := filepath.Join(dir, "allow")
	if _, err := os.Stat(path); err != nil {
		return nil, nil // overlay says what is wrong with it, if it is there
	}
	return readAllowFile(path)
}

func portText(port uint16) string { return strconv.Itoa(int(port)) }

// explainRefusedPort says what it means that a peer is there and nobody takes
// files.
func explainRefusedPort(err error, peer ri2n.PeerID) error {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	var port *overlay.PortError
	if errors.As(err, &port) && port.Policy() {
		return &cli.Error{Object: port.Object(), Cause: port.Cause(), Next: port.Next(), Code: cli.ExitRefused, Err: err}
	}
	return &cli.Error{
		Object: "peer " + peer.String(),
		Cause:  "it is there, and takes no files",
		Next:   strings.Join([]string{"on that computer: grid recv --allow PEERID", "or grid up --allow PEERID --receive DIRECTORY", "with what grid id prints here"}, ", "),
		Code:   cli.ExitRefused,
		Err:    err,
	}
}
