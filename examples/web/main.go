// Web is an HTTP server and a client, both of the standard library, that meet in
// the grid: neither needs an address, an open port of a router, or a certificate.
//
//	web -dir DIRECTORY serve
//	web -dir DIRECTORY get http://NAME/
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/instantgrid/instantgrid/examples/internal/member"
	"github.com/instantgrid/instantgrid/overlay"
)

func main() {
	member.Main(func(ctx context.Context, node *overlay.Node, args []string) error {
		switch {
		case len(args) == 1 && args[0] == "serve":
			return serve(ctx, node)
		case len(args) == 2 && args[0] == "get":
			return get(ctx, node, args[1], os.Stdout)
		}
		return errors.New("usage: web [flags] serve, or web [flags] get http://NAME/")
	})
}

// serve answers on port 80 of the node until ctx ends. Who may connect is decided
// before, by the node's policy; the handler is told who it was.
func serve(ctx context.Context, node *overlay.Node) error {
	ln, err := node.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	// Members find it as _http._tcp of this node (grid dns).
	withdraw, err := node.Offer(overlay.Offer{Name: "http", Network: "tcp", Port: 80})
	if err != nil {
		return err
	}
	defer withdraw()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello %s, over %s\n", r.RemoteAddr, r.Proto)
		}),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
	}
	// The session below is encrypted and both ends are authenticated, so that
	// HTTP/2 needs no TLS.
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// get fetches a page from a member, by name or peer ID, and writes it to w.
func get(ctx context.Context, node *overlay.Node, url string, w io.Writer) error {
	transport := &http.Transport{DialContext: node.DialContext, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(w, answer.Body)
	return err
}
