// Package member runs an example on a node of its own.
package member

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Main starts the node that the flags of the command line describe and runs the
// example on it, with the arguments, until it returns or an interrupt ends ctx.
// An error is printed, and ends the program with exit code 1.
func Main(run func(ctx context.Context, node *overlay.Node, args []string) error) {
	log.SetFlags(0)
	var cfg overlay.Config
	flag.StringVar(&cfg.Dir, "dir", "", "state `directory` of a member of its own: grid join --dir DIRECTORY TOKEN")
	flag.StringVar(&cfg.Rendezvous, "rendezvous", "", "`HOST:PORT#PEERID` of the rendezvous (default that of the directory)")
	allow := flag.String("allow", "", "`PEERIDS` that may connect besides members, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := start(ctx, cfg, *allow, run)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func start(ctx context.Context, cfg overlay.Config, allow string, run func(context.Context, *overlay.Node, []string) error) error {
	for text := range strings.SplitSeq(allow, ",") {
		if text == "" {
			continue
		}
		id, err := ri2n.ParsePeerID(text)
		if err != nil {
			return err
		}
		cfg.Allow = append(cfg.Allow, id)
	}
	node, err := overlay.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer node.Close()
	if err := node.Ready(ctx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "peer ID %s\n", node.PeerID())
	return run(ctx, node, flag.Args())
}
