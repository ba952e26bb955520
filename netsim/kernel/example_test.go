package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A process in a home behind a NAT, 10 ms from the Internet; in the simulator
// where the system refuses.
func Example() {
	sc := netsim.Scenario{
		NATs: []netsim.NATNode{{
			Name:   "home",
			NAT:    netsim.NAT{Filtering: netsim.AddressAndPortDependent},
			Uplink: netsim.Link{Delay: 10 * time.Millisecond},
		}},
		Hosts: []netsim.HostNode{{Name: "pc", Parent: "home"}, {Name: "server"}},
	}
	network, err := kernel.Start(sc)
	if errors.Is(err, kernel.ErrNotPermitted) {
		fmt.Println(err)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	pc := network.Host("pc").(*kernel.Host)
	out, err := pc.Command(context.Background(), "ip", "route").CombinedOutput()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)
}
