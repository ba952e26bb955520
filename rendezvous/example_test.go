package rendezvous_test

import (
	"bytes"
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

func ExampleParseAddress() {
	a, err := rendezvous.ParseAddress("grid.example.org:3478#aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq")
	fmt.Println(a.Host, a.Port, a.Peer.Short(), err)
	_, err = rendezvous.ParseAddress("grid.example.org:3478")
	fmt.Println(err)
	// Output:
	// grid.example.org 3478 aeaqcaib <nil>
	// rendezvous: rendezvous address "grid.example.org:3478": it has no # with the server's peer ID after the port
}

// A sender makes a token, deposits one key at the rendezvous and keeps the
// other; the guest shows one and proves that it knows the other.
func ExampleToken() {
	server, _ := rendezvous.ParseAddress("192.0.2.1:3478#aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq")
	random := bytes.NewReader([]byte("use crypto/rand!")) // an example has the same secret each time
	made, _ := rendezvous.NewToken(random, server, ri2n.PeerID{1}, time.Unix(1_800_000_000, 0))
	text := made.Encode()

	got, err := rendezvous.ParseToken(text)
	fmt.Println(got.Server.HostPort(), got.AdmitKey() == made.AdmitKey(), err)

	exporter := []byte("of the session between the two")
	proof := rendezvous.Proof(got.PeerKey(), exporter)
	fmt.Println(rendezvous.VerifyProof(made.PeerKey(), exporter, proof[:]))
	// Output:
	// 192.0.2.1:3478 true <nil>
	// true
}
