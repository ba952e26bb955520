package overlay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// certificate makes a self-signed one for QUIC.
func certificate(t *testing.T) *tls.Config {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		NextProtos:   []string{"test"}, InsecureSkipVerify: true,
	}
}

// QUIC's packets of at least 1200 bytes pass also where datagrams are smaller, on
// the relay.
func TestQUICOverPackets(t *testing.T) {
	for name, path := range map[string]PathPolicy{"any path": PathAny, "relay": PathRelayOnly} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 1, restricted, restricted)
				a, b := r.pair(func(c *Config) { c.Path = path })
				config := certificate(t)
				server := &quic.Transport{Conn: socket(t, b, ":443")}
				defer server.Close()
				ln, err := server.Listen(config, nil)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					c, err := ln.Accept(context.Background())
					if err != nil {
						return
					}
					st, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					io.Copy(st, st)
					st.Close()
				}()
				client := &quic.Transport{Conn: socket(t, a, ":0")}
				defer client.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c, err := client.Dial(ctx, PacketAddr{Addr{b.PeerID(), 443}}, config, nil)
				if err != nil {
					t.Fatal(err)
				}
				st, err := c.OpenStreamSync(ctx)
				if err != nil {
					t.Fatal(err)
				}
				st.SetDeadline(time.Now().Add(time.Minute))
				want := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
				go func() {
					st.Write(want)
					st.Close()
				}()
				if got, err := io.ReadAll(st); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back, %v", len(got), err)
				}
				if n := a.Status().Counters.PacketsHalved; path == PathRelayOnly && n == 0 {
					t.Error("no packet went in halves")
				}
				c.CloseWithError(0, "")
			})
		})
	}
}

func TestDNSOverPackets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		server := &dns.Server{PacketConn: socket(t, b, ":53"), Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"over packets"}}}
			w.WriteMsg(m)
		})}
		go server.ActivateAndServe()
		defer server.Shutdown()
		c, err := a.DialContext(t.Context(), "udp", Addr{b.PeerID(), 53}.String())
		if err != nil {
			t.Fatal(err)
		}
		answer, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT), &dns.Conn{Conn: c})
		if err != nil || len(answer.Answer) != 1 || answer.Answer[0].(*dns.TXT).Txt[0] != "over packets" {
			t.Errorf("answer %v, %v", answer, err)
		}
		c.Close()
		// And with the resolver of the standard library.
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return a.DialContext(ctx, "udp", Addr{b.PeerID(), 53}.String())
		}}
		texts, err := resolver.LookupTXT(t.Context(), "example.org.")
		if err != nil || len(texts) != 1 {
			t.Errorf("LookupTXT = %v, %v", texts, err)
		}
	})
}

// A connection that was given up ends as such at the other end.
func TestLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		for _, abort := range []bool{false, true} {
			c := dial(t, a, b.PeerID(), 7000)
			server, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if abort {
				c.(interface{ SetLinger(int) error }).SetLinger(0)
			}
			c.Close()
			server.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = server.Read(make([]byte, 1))
			if abort != errors.Is(err, syscall.ECONNRESET) || !abort && err != io.EOF {
				t.Errorf("given up: %v; the other end reads %v", abort, err)
			}
			server.Close()
		}
	})
}
