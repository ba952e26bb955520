package qlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A node is an endpoint of a test with a link on each of its hosts.
type node struct {
	endpoint *ri2n.Endpoint
	links    []*ri2n.Link
}

func newNode(t *testing.T, seed byte, trace func(*ri2n.Session) ri2n.Tracer, hosts ...netsim.Host) node {
	t.Helper()
	random := rand.NewChaCha8([32]byte{seed})
	id, err := ri2n.NewIdentity(random)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ri2n.NewEndpoint(ri2n.Config{Identity: id, Authorize: func(ri2n.PeerID) error { return nil }, Rand: random, Trace: trace, Congestion: ri2n.CongestionNewReno})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	n := node{endpoint: e}
	for _, h := range hosts {
		pc, err := h.ListenPacket(t.Context(), 7000)
		if err != nil {
			t.Fatal(err)
		}
		l, err := e.AddLink(h.Name(), pc)
		if err != nil {
			t.Fatal(err)
		}
		n.links = append(n.links, l)
	}
	return n
}

func addr(l *ri2n.Link) netip.AddrPort { return netip.MustParseAddrPort(l.LocalAddr().String()) }

// traced runs a transfer of n bytes over two paths, of which the second goes
// silent at half time, and returns the client's trace.
func traced(t *testing.T, opt qlog.Options, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		link := netsim.Link{Delay: 10 * time.Millisecond, Rate: 10e6}
		trace := qlog.NewWriter(&out, opt)
		a := newNode(t, 1, trace.Trace, w.Host(link), w.Host(link))
		b := newNode(t, 2, nil, w.Host(link), w.Host(link))
		client, err := a.endpoint.Dial(t.Context(), b.endpoint.PeerID(), ri2n.Remote{Link: a.links[0], Addr: addr(b.links[0])})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.AddPath(t.Context(), ri2n.Remote{Link: a.links[1], Addr: addr(b.links[1])}); err != nil {
			t.Fatal(err)
		}
		server, err := b.endpoint.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st, err := client.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			st.Write(make([]byte, n/2))
			time.Sleep(200 * time.Millisecond)
			a.links[0].Close()
			st.Write(make([]byte, n-n/2))
			st.Close()
		}()
		in, err := server.AcceptStream(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.Copy(io.Discard, in); err != nil || got != int64(n) {
			t.Fatalf("received %d bytes and %v, want %d", got, err, n)
		}
		in.Close()
		time.Sleep(time.Second)
		client.Close()
		a.endpoint.Close()
		if err := trace.Close(); err != nil {
			t.Fatal(err)
		}
		if trace.Dropped() > 0 && opt.Queue == 0 && opt.MaxBytes == 0 {
			t.Errorf("%d events dropped", trace.Dropped())
		}
	})
	return out.Bytes()
}

// TestGoldenTrace shows what the trace of a whole session looks like: a request
// of 3000 bytes and its answer, on one path.
func TestGoldenTrace(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		link := netsim.Link{Delay: 10 * time.Millisecond, Rate: 10e6}
		trace := qlog.NewWriter(&out, qlog.Options{Title: "request and answer"})
		a, b := newNode(t, 1, trace.Trace, w.Host(link)), newNode(t, 2, nil, w.Host(link))
		client, err := a.endpoint.Dial(t.Context(), b.endpoint.PeerID(), ri2n.Remote{Link: a.links[0], Addr: addr(b.links[0])})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			server, err := b.endpoint.Accept(t.Context())
			if err != nil {
				return
			}
			if in, err := server.AcceptStream(t.Context()); err == nil {
				io.Copy(in, in)
				in.Close()
			}
		}()
		st, err := client.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Write(make([]byte, 3000))
		st.CloseWrite()
		if n, err := io.Copy(io.Discard, st); n != 3000 || err != nil {
			t.Fatalf("%d bytes came back, and %v", n, err)
		}
		st.Close()
		time.Sleep(100 * time.Millisecond)
		client.Close()
		a.endpoint.Close()
		if err := trace.Close(); err != nil {
			t.Fatal(err)
		}
	})
	got := out.Bytes()
	golden := filepath.Join("testdata", "request.sqlog")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("record %d is\n%s\nwant\n%s\n(-update rewrites the file)", i, a[i], b[i])
			}
		}
		t.Fatalf("%d records, want %d (-update rewrites the file)", len(a), len(b))
	}
}

// records reads all of a trace.
func records(t *testing.T, trace []byte) (list []qlog.Record, skipped int) {
	t.Helper()
	_, skipped, err := qlog.Read(bytes.NewReader(trace), func(r qlog.Record) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, skipped
}

// TestEveryRecordIsJSON checks the form of RFC 7464 and that time never goes
// back within a session.
func TestEveryRecordIsJSON(t *testing.T) {
	trace := traced(t, qlog.Options{}, 200_000)
	parts := bytes.Split(trace, []byte{0x1e})
	if len(parts[0]) != 0 {
		t.Errorf("the file begins with %q, want RS", parts[0])
	}
	for _, p := range parts[1:] {
		if !json.Valid(p) || !bytes.HasSuffix(p, []byte("\n")) || bytes.Count(p, []byte("\n")) != 1 {
			t.Errorf("record %q is no line of JSON", p)
		}
	}
	list, skipped := records(t, trace)
	if skipped != 0 || len(list) != len(parts)-2 {
		t.Errorf("read %d records and skipped %d of %d", len(list), skipped, len(parts)-2)
	}
	var names []string
	last := 0.0
	for _, r := range list {
		if r.Time < last {
			t.Errorf("%s at %v follows %v", r.Name, r.Time, last)
		}
		last = r.Time
		names = append(names, r.Name)
	}
	for _, name := range []string{
		qlog.NameStarted, qlog.NameClosed, qlog.NamePacketSent, qlog.NamePacketReceived,
		qlog.NameMetrics, qlog.NameStream, qlog.NamePath, qlog.NameBurst,
	} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s", name)
		}
	}
}

// TestNoSecrets holds that nothing of 16 random bytes or more gets into a
// trace but peer IDs: no token, no key, no data.
func TestNoSecrets(t *testing.T) {
	trace := traced(t, qlog.Options{}, 50_000)
	peer := regexp.MustCompile(`"(local|remote)_peer_id":"[a-z2-7]{52}"`)
	rest := peer.ReplaceAll(trace, nil)
	if found := regexp.MustCompile(`[0-9a-zA-Z+/=]{32,}`).Find(rest); found != nil {
		t.Errorf("the trace holds %q", found)
	}
}

// TestTruncatedTrace cuts a file everywhere, as a crash may.
func TestTruncatedTrace(t *testing.T) {
	trace := traced(t, qlog.Options{NoPackets: true}, 4000)
	whole, _ := records(t, trace)
	header := bytes.IndexByte(trace[1:], 0x1e) + 1
	for cut := header; cut < len(trace); cut++ {
		list, skipped := records(t, trace[:cut])
		if want := bytes.Count(trace[header:cut], []byte("\n")); len(list) != want || skipped > 1 {
			t.Fatalf("cut at %d: %d records and %d skipped, want %d", cut, len(list), skipped, want)
		}
		for i, r := range list {
			if r.Name != whole[i].Name || !bytes.Equal(r.Data, whole[i].Data) {
				t.Fatalf("cut at %d: record %d is %s, want %s", cut, i, r.Data, whole[i].Data)
			}
		}
	}
}

func TestReadRefusesOtherFiles(t *testing.T) {
	for _, text := range []string{"", "\x1e", "hello", "\x1e{}\n", "\x1e{\"file_schema\":\"urn:other\"}\n"} {
		_, _, err := qlog.Read(strings.NewReader(text), func(qlog.Record) error { return nil })
		if !errors.Is(err, qlog.ErrNotTrace) {
			t.Errorf("Read(%q) = %v, want ErrNotTrace", text, err)
		}
	}
}

func TestReadSkipsWhatIsTooLong(t *testing.T) {
	trace := traced(t, qlog.Options{NoPackets: true}, 1000)
	whole, _ := records(t, trace)
	long := append([]byte{0x1e, '"'}, bytes.Repeat([]byte{'x'}, 3<<20)...)
	list, skipped := records(t, slices.Concat(trace, long, []byte("\"\n\x1e{\"time\":1,\"name\":\"x\",\"data\":{}}\n")))
	if skipped != 1 || len(list) != len(whole)+1 {
		t.Errorf("read %d records and skipped %d, want %d and 1", len(list), skipped, len(whole)+1)
	}
}

// blockedFile never takes a byte until it is released.
type blockedFile struct{ release chan struct{} }

func (f blockedFile) Write(b []byte) (int, error) {
	<-f.release
	return len(b), nil
}

// TestSlowFileDropsEvents holds that a tracer returns at once, whatever the
// file does, and that what it drops is counted.
func TestSlowFileDropsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := blockedFile{make(chan struct{})}
		made := make(chan *qlog.Writer)
		go func() { made <- qlog.NewWriter(f, qlog.Options{Queue: 4}) }()
		f.release <- struct{}{} // the header
		w := <-made
		tracer := w.Trace(nil)
		for range 100 {
			tracer.Trace(time.Now(), ri2n.TraceKeyUpdate{})
			synctest.Wait()
		}
		if got := w.Dropped(); got < 90 || got > 96 {
			t.Errorf("%d events dropped, want all but the queue's 4 and those in the buffer", got)
		}
		close(f.release)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		tracer.Trace(time.Now(), ri2n.TraceKeyUpdate{}) // late: no panic
	})
}

func TestDroppedEventsAreTold(t *testing.T) {
	trace := traced(t, qlog.Options{MaxBytes: 4000}, 20_000)
	if len(trace) > 4000+1000 {
		t.Errorf("the file has %d bytes, want about 4000", len(trace))
	}
	records(t, trace)
}

type brokenFile struct{}

func (brokenFile) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestCloseReportsWriteErrors(t *testing.T) {
	w := qlog.NewWriter(brokenFile{}, qlog.Options{})
	if err := w.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close = %v, want %v", err, io.ErrClosedPipe)
	}
	w.Close()
}

func TestCreate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.sqlog")
	w, err := qlog.Create(name, qlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("mode is %v (%v), want the owner's only", info.Mode(), err)
	}
	if _, err := qlog.Create(filepath.Join(name, "below"), qlog.Options{}); err == nil {
		t.Error("Create below a file succeeded")
	}
}
