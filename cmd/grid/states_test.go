package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/discovery"
)

// runStates is a member that takes the states on its standard input, one to a
// line, until that ends.
func runStates() int {
	node, err := overlay.Start(context.Background(), overlay.Config{Dir: os.Args[1]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer node.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var s discovery.State
		err := s.UnmarshalText(lines.Bytes())
		if err == nil {
			err = node.SetState(s)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(s)
	}
	return 0
}
