// Rendezvous is the public server that introduces peers of the grid to each
// other, answers STUN, and relays what cannot go directly.
package main

import (
	"os"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(newCommand(), explain)) }
