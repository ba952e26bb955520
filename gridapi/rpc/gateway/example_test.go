package gateway_test

import (
	"context"
	"log"
	"net"
	"net/http"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/gridapi/rpc/gateway"
)

// Functions over HTTP for programs of this computer that know the token:
// curl -H 'Authorization: Bearer TOKEN' -d 3 http://127.0.0.1:8080/v1/functions/square
func ExampleNew() {
	client, err := rpc.NewClient(rpc.ClientConfig{Dial: new(net.Dialer).DialContext, Workers: []string{"192.0.2.7:7100"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	g := gateway.New(gateway.Config{Client: func(context.Context) (*rpc.Client, func(), error) { return client, func() {}, nil }})
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", gateway.Guard(g, "a long random word")))
}
