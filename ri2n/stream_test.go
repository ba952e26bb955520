package ri2n

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestEchoOverLoopback(t *testing.T) {
	client, server := loopbackPair(t)
	if got, want := server.Peer(), client.endpoint.PeerID(); got != want {
		t.Errorf("server's peer = %v, want %v", got, want)
	}
	a, b := streamPair(t, client, server)
	go func() {
		io.Copy(b, b)
		b.CloseWrite()
	}()
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	go func() {
		a.Write(data)
		a.CloseWrite()
	}()
	got, err := io.ReadAll(a)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("echoed %d bytes differ from the %d sent", len(got), len(data))
	}
}

func TestManyStreams(t *testing.T) {
	client, server := loopbackPair(t)
	ctx := context.Background()
	go func() {
		for {
			st, err := server.AcceptStream(ctx)
			if err != nil {
				return
			}
			go func() {
				io.Copy(st, st)
				st.Close()
			}()
		}
	}()
	for i := range 3000 {
		st, err := client.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		msg := bytes.Repeat([]byte{byte(i)}, i%2000+1)
		st.Write(msg)
		st.CloseWrite()
		got, err := io.ReadAll(st)
		if err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("stream %d: %d bytes, %v; want %d", i, len(got), err, len(msg))
		}
		st.Close()
	}
	client.mu.Lock()
	defer client.mu.Unlock()
	if got := client.streams.len(); got > 2 {
		t.Errorf("streams still open = %d, want at most 2", got)
	}
}

func TestConnOverLoopback(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		client, server := loopbackPair(t)
		c1, c2 = streamPair(t, client, server)
		return c1, c2, func() {
			c1.Close()
			c2.Close()
			client.endpoint.Close()
			server.endpoint.Close()
		}, nil
	})
}
