// Package member starts the node that an example runs on, as its flags say.
package member

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Flags are those that every example has.
type Flags struct {
	dir, rendezvous, allow string
}

// Define adds the flags to those of the command line.
func (f *Flags) Define() {
	flag.StringVar(&f.dir, "dir", "", "state `directory` of a member of its own: grid join --dir DIRECTORY TOKEN")
	flag.StringVar(&f.rendezvous, "rendezvous", "", "`HOST:PORT#PEERID` of the rendezvous (default that of the directory)")
	flag.StringVar(&f.allow, "allow", "", "`PEERIDS` that may connect besides members, separated by commas")
}

// Start starts the node, and returns when the rendezvous knows it. It says on the
// standard error who it is.
func (f *Flags) Start(ctx context.Context) (*overlay.Node, error) {
	cfg := overlay.Config{Dir: f.dir, Rendezvous: f.rendezvous}
	for text := range strings.SplitSeq(f.allow, ",") {
		if text == "" {
			continue
		}
		id, err := ri2n.ParsePeerID(text)
		if err != nil {
			return nil, err
		}
		cfg.Allow = append(cfg.Allow, id)
	}
	node, err := overlay.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := node.Ready(ctx); err != nil {
		node.Close()
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "peer ID %s\n", node.PeerID())
	return node, nil
}
