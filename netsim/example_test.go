package netsim_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A host behind a NAT asks a public one which address it sees.
func ExampleStart() {
	network, err := netsim.Start(netsim.Scenario{
		NATs: []netsim.NATNode{{
			Name:   "home",
			NAT:    netsim.NAT{Filtering: netsim.AddressAndPortDependent},
			Uplink: netsim.Link{Delay: time.Millisecond},
		}},
		Hosts: []netsim.HostNode{{Name: "pc", Parent: "home"}, {Name: "server"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	server, err := network.Host("server").ListenPacket(context.Background(), 3478)
	if err != nil {
		log.Fatal(err)
	}
	pc, err := network.Host("pc").ListenPacket(context.Background(), 5000)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pc.WriteTo([]byte("who am I?"), server.LocalAddr()); err != nil {
		log.Fatal(err)
	}
	b := make([]byte, 1500)
	_, from, err := server.ReadFrom(b)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(pc.LocalAddr(), "is seen as", from)
	fmt.Println("mappings:", network.Gateway("home").Mappings())
	// Output:
	// 192.168.1.2:5000 is seen as 5.1.1.10:5000
	// mappings: 1
}

// Two scripted hosts, on a clock of their own.
func ExampleStepped() {
	network, err := netsim.NewStepped(netsim.Scenario{
		Seed: 1,
		Hosts: []netsim.HostNode{
			{Name: "a", Uplink: netsim.Link{Delay: 10 * time.Millisecond}},
			{Name: "b", Uplink: netsim.Link{Delay: 20 * time.Millisecond}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	b, err := network.Bind("b", 7, func(from netip.AddrPort, payload []byte) {
		fmt.Printf("%v: %s from %v\n", network.Now(), payload, from)
	})
	if err != nil {
		log.Fatal(err)
	}
	a, err := network.Bind("a", 0, func(netip.AddrPort, []byte) {})
	if err != nil {
		log.Fatal(err)
	}
	network.At(time.Hour, func() { a.Send(b.Addr(), []byte("hello")) })
	network.Run(2 * time.Hour)
	// Output:
	// 1h0m0.03s: hello from 5.1.1.10:49152
}

func ExampleDirectPossible() {
	home, err := netsim.ParseNATType("EIM/APDF")
	if err != nil {
		log.Fatal(err)
	}
	for _, peer := range netsim.NATTypes() {
		if !netsim.DirectPossible(home, peer) {
			fmt.Println(home, "with", peer, "needs a relay")
		}
	}
	// Output:
	// EIM/APDF with ADM/EIF needs a relay
	// EIM/APDF with ADM/ADF needs a relay
	// EIM/APDF with ADM/APDF needs a relay
	// EIM/APDF with APDM/EIF needs a relay
	// EIM/APDF with APDM/ADF needs a relay
	// EIM/APDF with APDM/APDF needs a relay
}
