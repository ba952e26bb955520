package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/proxy"
)

// What the demo needs of the Web, for computers without a web server and curl.

// newWeb is a web server with one page.
func newWeb() *cobra.Command {
	return &cobra.Command{
		Use:     "web HOST:PORT TEXT",
		Short:   "Serve a text over HTTP until interrupted",
		Example: "netsim web 127.0.0.1:8000 hello",
		Hidden:  true,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ln, err := net.Listen("tcp", args[0])
			if err != nil {
				return err
			}
			server := &http.Server{
				Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, args[1]) }),
				ReadHeaderTimeout: 5 * time.Second,
			}
			defer context.AfterFunc(cmd.Context(), func() { server.Close() })()
			fmt.Fprintf(cmd.OutOrStdout(), "{\"listen\": %q}\n", ln.Addr())
			if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
	}
}

// newGet prints a page, as curl does.
func newGet() *cobra.Command {
	var socks string
	cmd := &cobra.Command{
		Use:     "get URL",
		Short:   "Print what is at a URL",
		Example: "netsim get http://127.0.0.1:8000/",
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			transport := &http.Transport{}
			if socks != "" {
				d, err := proxy.SOCKS5("tcp", socks, nil, proxy.Direct)
				if err != nil {
					return err
				}
				transport.DialContext = func(_ context.Context, network, address string) (net.Conn, error) { return d.Dial(network, address) }
			}
			client := &http.Client{Transport: transport, Timeout: commandTime}
			response, err := client.Get(args[0])
			if err != nil {
				return err
			}
			defer response.Body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), response.Body)
			return err
		},
	}
	cmd.Flags().StringVar(&socks, "socks5-hostname", "", "SOCKS5 proxy, `HOST:PORT`, which resolves the name")
	return cmd
}
