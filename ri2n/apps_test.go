package ri2n

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/xtaci/smux"
)

// A sessionListener is the net.Listener of the streams that a peer opens.
type sessionListener struct {
	*Session
	ctx  context.Context
	stop context.CancelFunc
}

func listen(s *Session) *sessionListener {
	ctx, stop := context.WithCancel(context.Background())
	return &sessionListener{s, ctx, stop}
}

func (l *sessionListener) Accept() (net.Conn, error) {
	st, err := l.AcceptStream(l.ctx)
	if err != nil {
		return nil, net.ErrClosed
	}
	return st, nil
}

func (l *sessionListener) Close() error {
	l.stop()
	return nil
}

func (l *sessionListener) Addr() net.Addr { return Addr{l.endpoint.PeerID()} }

// overHTTP runs h on the server's end of a session and use with a client on
// the other one.
func overHTTP(t *testing.T, link netsim.Link, h http.Handler, use func(c *http.Client)) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, link)
		srv := &http.Server{Handler: h}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(listen(server)) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return client.OpenStream(ctx)
		}}
		use(&http.Client{Transport: transport})
		transport.CloseIdleConnections()
		srv.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("server ended with %v", err)
		}
	})
}

func TestHTTPUploadAndDownload(t *testing.T) {
	const size = 2 << 20
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hash", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			t.Errorf("upload: %v", err)
		}
		fmt.Fprintf(w, "%x", h.Sum(nil))
	})
	mux.HandleFunc("GET /data", func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(w, rand.NewChaCha8([32]byte{3}), size)
	})
	want := sha256.New()
	io.CopyN(want, rand.NewChaCha8([32]byte{3}), size)
	link := netsim.Link{Delay: 10 * time.Millisecond, Rate: 100e6, Loss: 0.002}
	overHTTP(t, link, mux, func(c *http.Client) {
		res, err := c.Post("http://peer/hash", "application/octet-stream", io.LimitReader(rand.NewChaCha8([32]byte{3}), size))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		res.Body.Close()
		if got, want := string(answer), fmt.Sprintf("%x", want.Sum(nil)); got != want || err != nil {
			t.Errorf("hash of the upload = %q, %v; want %q", got, err, want)
		}
		if res, err = c.Get("http://peer/data"); err != nil {
			t.Fatal(err)
		}
		got := sha256.New()
		n, err := io.Copy(got, res.Body)
		res.Body.Close()
		if n != size || err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("downloaded %d bytes, %v, hash %x; want %d, hash %x", n, err, got.Sum(nil), size, want.Sum(nil))
		}
	})
}

// TestServerSentEvents: each event arrives half a round trip after it was
// written, none waits for the next.
func TestServerSentEvents(t *testing.T) {
	const events, every, oneWay = 20, 100 * time.Millisecond, 20 * time.Millisecond
	var written [events]time.Time
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range events {
			time.Sleep(every)
			written[i] = time.Now()
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
		}
	})
	overHTTP(t, netsim.Link{Delay: oneWay / 2}, h, func(c *http.Client) {
		res, err := c.Get("http://peer/events")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for i := 0; i < events && lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "data: ") {
				continue
			}
			if got, want := lines.Text(), fmt.Sprintf("data: %d", i); got != want {
				t.Errorf("event %d is %q, want %q", i, got, want)
			}
			if late := time.Since(written[i]); late != oneWay {
				t.Errorf("event %d arrived %v after it was written, want %v", i, late, oneWay)
			}
			i++
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestTLSOverStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: 5 * time.Millisecond, Loss: 0.01})
		a, b := streamPair(t, client, server)
		cfg := &tls.Config{
			Certificates:       []tls.Certificate{server.endpoint.cfg.Identity.cert},
			InsecureSkipVerify: true,
		}
		ta, tb := tls.Client(a, cfg), tls.Server(b, cfg)
		failed := make(chan error, 1)
		go func() {
			_, err := io.Copy(tb, tb)
			if err == nil {
				err = tb.CloseWrite()
			}
			failed <- err
		}()
		// First, since who waits for crypto/tls's mutex would stop the bubble.
		if err := ta.Handshake(); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{5}).Read(data)
		go func() {
			ta.Write(data)
			ta.CloseWrite()
		}()
		got, err := io.ReadAll(ta)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Errorf("echoed %d bytes, %v; want the %d sent", len(got), err, len(data))
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
}

// TestCopyBothWays joins two streams as a proxy does, with half-closes.
func TestCopyBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: 5 * time.Millisecond, Loss: 0.01})
		a1, b1 := streamPair(t, client, server)
		a2, b2 := streamPair(t, client, server)
		pipe := func(dst, src *Stream) {
			if _, err := io.Copy(dst, src); err != nil {
				t.Errorf("copy: %v", err)
			}
			dst.CloseWrite()
		}
		go pipe(b2, b1) // a1 -> b1 -> b2 -> a2
		go pipe(b1, b2)
		transfer(t, a1, a2, 1<<20)
		transfer(t, a2, a1, 1<<20) // after the first direction has ended
		for _, st := range []*Stream{a1, a2, b1, b2} {
			st.Close()
		}
		time.Sleep(time.Second)
		for name, s := range map[string]*Session{"client": client, "server": server} {
			s.mu.Lock()
			if n := s.streams.len(); n != 0 {
				t.Errorf("%s still keeps %d streams", name, n)
			}
			s.mu.Unlock()
		}
	})
}

// TestSmuxOverStream: a multiplexer that takes any net.Conn runs over one
// stream, with streams of its own in both directions. In real time, since its
// goroutines wait for mutexes.
func TestSmuxOverStream(t *testing.T) {
	client, server := loopbackPair(t)
	a, b := streamPair(t, client, server)
	cfg := smux.DefaultConfig()
	cfg.Version = 2
	ma, err := smux.Client(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := smux.Server(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	const streams, size = 8, 1 << 18
	var echoing, running sync.WaitGroup
	echoing.Go(func() {
		for range streams {
			st, err := mb.AcceptStream()
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			echoing.Go(func() {
				defer st.Close()
				io.CopyN(st, st, size)
			})
		}
	})
	for i := range streams {
		running.Go(func() {
			st, err := ma.OpenStream()
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer st.Close()
			st.SetDeadline(time.Now().Add(time.Minute))
			data := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			go st.Write(data)
			got := make([]byte, size)
			if n, err := io.ReadFull(st, got); err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("stream %d: %d of %d bytes came back, %v, or others", i, n, size, err)
			}
		})
	}
	running.Wait()
	echoing.Wait()
	if err := ma.Close(); err != nil {
		t.Error(err)
	}
	if st, err := mb.AcceptStream(); err == nil { // Close is ours, too: the other end hears of it
		t.Errorf("accepted stream %d after the end", st.ID())
	}
	mb.Close()
}
