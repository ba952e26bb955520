package directory

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/gridapi/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, seed byte) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{
		Dir: t.TempDir(), Key: store.Key{1},
		Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)),
		Verify: func(string, ed25519.PublicKey) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func serve(t *testing.T, source Source, key func() (store.Key, bool)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); Serve(ln, source, key, nil) }()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func dial(ctx context.Context, member string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", member)
}

func TestDirectory(t *testing.T) {
	alice, bob := open(t, 1), open(t, 2)
	have := func() (store.Key, bool) { return store.Key{1}, true }
	at := serve(t, alice, have)
	silent := serve(t, alice, nil)
	dead := "127.0.0.1:1"
	d := &Directory{Dial: dial, Members: func(context.Context) []string { return []string{dead, at, silent} }}
	bob.Connect(nil, d)
	ctx := t.Context()
	if _, err := alice.PutBytes(ctx, []byte("x"), store.PutOptions{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	r, err := bob.Resolve(ctx, "x")
	if err != nil || r.Version != 1 {
		t.Fatalf("bob resolves %+v, %v", r, err)
	}
	if _, err := bob.SetName(ctx, "x", store.Object{ID: r.Object}); err != nil {
		t.Fatal(err)
	}
	if r, err := alice.Resolve(ctx, "x"); err != nil || r.Version != 2 {
		t.Errorf("alice resolves %+v, %v", r, err)
	}
	if k, err := d.Key(ctx); err != nil || k != (store.Key{1}) {
		t.Errorf("Key = %v, %v", k, err)
	}
	d.Members = func(context.Context) []string { return []string{silent, dead} }
	if _, err := d.Key(ctx); err != ErrNoKey {
		t.Errorf("Key of those who have none: %v", err)
	}
	d.Members = func(context.Context) []string { return []string{dead} }
	if _, err := d.Lookup(ctx, "x"); err == nil {
		t.Error("nobody answers, and that is no error")
	}
	d.Members = func(context.Context) []string { return nil }
	if list, err := d.Lookup(ctx, "x"); err != nil || len(list) > 0 {
		t.Errorf("a lookup of who is alone: %v, %v", list, err)
	}
}

// TestHostile sends what no Directory does.
func TestHostile(t *testing.T) {
	alice := open(t, 1)
	at := serve(t, alice, nil)
	for _, b := range [][]byte{
		[]byte("GET / HTTP/1.1\r\n\r\n"), appendRequest(nil, 9, nil), appendRequest(nil, lookupRequest, make([]byte, maxBody+1)),
		appendRequest(nil, lookupRequest, []byte("../x")), appendRequest(nil, publishRequest, []byte("record")), appendRequest(nil, keyRequest, nil),
	} {
		c, err := dial(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		if parts, err := readAnswer(c); err == nil {
			t.Errorf("%q is answered with %q", b[:min(len(b), 40)], parts)
		}
		c.Close()
	}
}

func TestPrefixes(t *testing.T) {
	b := appendRequest(nil, lookupRequest, []byte("name"))
	for n := range b {
		if _, _, err := readRequest(bytes.NewReader(b[:n])); err == nil {
			t.Errorf("a prefix of %d bytes of a request is taken", n)
		}
	}
	b = appendAnswer(nil, accepted, [][]byte{[]byte("one"), {}})
	for n := range b {
		if _, err := readAnswer(bytes.NewReader(b[:n])); err == nil {
			t.Errorf("a prefix of %d bytes of an answer is taken", n)
		}
	}
	if _, err := readAnswer(bytes.NewReader(appendAnswer(nil, refused, nil))); !errors.Is(err, refused) {
		t.Errorf("a refusal: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(appendRequest(nil, lookupRequest, []byte("name")))
	f.Fuzz(func(t *testing.T, b []byte) {
		from := bytes.NewReader(b)
		r, body, err := readRequest(from)
		if err != nil {
			return
		}
		if again := appendRequest(nil, r, body); !bytes.Equal(again, b[:len(b)-from.Len()]) {
			t.Errorf("%x decodes to %d, %x", b, r, body)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, accepted, [][]byte{[]byte("one"), {}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		from := bytes.NewReader(b)
		parts, err := readAnswer(from)
		if err != nil {
			return
		}
		if again := appendAnswer(nil, accepted, parts); !bytes.Equal(again, b[:len(b)-from.Len()]) {
			t.Errorf("%x decodes to %x", b, parts)
		}
	})
}
