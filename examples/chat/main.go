// Chat sends each line of the standard input to some members, as packets, and
// prints the lines of others: what games, audio and other traffic that must not
// wait would do. Packets may be lost and overtake each other.
//
//	chat -dir DIRECTORY NAME...
//
// Everybody's policy opens port 9000 to the others, or they are answered only
// after having been written to.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/instantgrid/instantgrid/examples/internal/member"
	"github.com/instantgrid/instantgrid/overlay"
)

// port is where everybody's chat listens.
const port = 9000

func main() {
	member.Main(func(ctx context.Context, node *overlay.Node, args []string) error {
		return chat(ctx, node, args, os.Stdin, os.Stdout)
	})
}

// chat sends the lines of in to those who are named, and writes what comes to
// out, until ctx ends.
func chat(ctx context.Context, node *overlay.Node, names []string, in io.Reader, out io.Writer) error {
	pc, err := node.ListenPacket("udp", fmt.Sprint(":", port))
	if err != nil {
		return err
	}
	defer pc.Close()
	var friends []net.Addr
	for _, name := range names {
		friends = append(friends, overlay.NameAddr(fmt.Sprint(name, ":", port)))
	}
	go say(pc, friends, in)
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	packet := make([]byte, overlay.MaxPacketSize)
	for {
		n, from, err := pc.ReadFrom(packet)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %s\n", nameOf(node, from), packet[:n])
	}
}

// say sends each line to all friends. WriteTo never waits: where there is no
// session yet, it makes one, and the packet leaves when it is there.
func say(pc net.PacketConn, friends []net.Addr, in io.Reader) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		for _, friend := range friends {
			if _, err := pc.WriteTo(lines.Bytes(), friend); err != nil {
				log.Printf("%v: %v", friend, err)
			}
		}
	}
}

// nameOf returns the name of a packet's sender, whom the session has verified.
func nameOf(node *overlay.Node, from net.Addr) string {
	peer := from.(overlay.PacketAddr).Peer
	if m := node.MemberOf(peer); m != nil {
		return m.Name
	}
	return peer.Short()
}
