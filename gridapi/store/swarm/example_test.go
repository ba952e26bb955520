package swarm_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
)

// Bob fetches a chunk that alice holds.
func Example() {
	members := func() []swarm.Member {
		return []swarm.Member{{Name: "alice", Site: "one home"}, {Name: "bob", Site: "another"}}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "swarm")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	hold := func(member string) *disk.Disk {
		d, err := disk.Open(disk.Config{Dir: filepath.Join(dir, member)})
		if err != nil {
			log.Fatal(err)
		}
		return d
	}
	dial := func(ctx context.Context, member string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String()) // alice's, whoever is asked for
	}

	held := hold("alice")
	defer held.Close()
	alice := swarm.New(swarm.Config{Self: "alice", Holdings: held, Members: members, Dial: dial})
	defer alice.Close()
	go alice.Serve(ln)

	got := hold("bob")
	defer got.Close()
	bob := swarm.New(swarm.Config{Self: "bob", Holdings: got, Members: members, Dial: dial})
	defer bob.Close()

	id := chunk.Sum([]byte("sealed bytes"))
	if err := held.Put(id, []byte("sealed bytes")); err != nil {
		log.Fatal(err)
	}
	if err := bob.Fetch(context.Background(), []chunk.ID{id}, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println(got.Has(id))
	// Output: true
}
