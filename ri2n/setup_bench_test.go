package ri2n

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// BenchmarkSetup is the time from dial to the first echoed byte over loopback
// with both ends in one process: ri2n, and TLS 1.3 over TCP with the same
// Ed25519 certificates on both sides and the same key exchange.
func BenchmarkSetup(b *testing.B) {
	b.Run("transport=ri2n", func(b *testing.B) {
		client, server := newTestEndpoint(b), newTestEndpoint(b)
		from, to := addLoopback(b, client), addLoopback(b, server)
		go func() {
			for {
				s, err := server.Accept(b.Context())
				if err != nil {
					return
				}
				go func() {
					defer s.Close()
					st, err := s.AcceptStream(b.Context())
					if err != nil {
						return
					}
					io.Copy(st, st)
					st.CloseWrite()
					<-s.Done()
				}()
			}
		}()
		b.ReportAllocs()
		for b.Loop() {
			s, err := client.Dial(b.Context(), server.PeerID(), Remote{Link: from, Addr: linkAddr(to)})
			if err != nil {
				b.Fatal(err)
			}
			st, err := s.OpenStream(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			echoByte(b, st)
			st.Close()
			s.Close()
		}
	})
	b.Run("transport=tls", func(b *testing.B) {
		config := func() *tls.Config {
			id := newTestEndpoint(b).cfg.Identity
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				Certificates:           []tls.Certificate{id.cert},
				ClientAuth:             tls.RequireAnyClientCert,
				InsecureSkipVerify:     true,
				SessionTicketsDisabled: true,
				CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
			}
		}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", config())
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}()
		dialer := config()
		b.ReportAllocs()
		for b.Loop() {
			c, err := tls.Dial("tcp", ln.Addr().String(), dialer)
			if err != nil {
				b.Fatal(err)
			}
			echoByte(b, c)
			c.Close()
		}
	})
}

func echoByte(b *testing.B, c net.Conn) {
	b.Helper()
	var buf [1]byte
	if _, err := c.Write(buf[:]); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf[:]); err != nil {
		b.Fatal(err)
	}
}
