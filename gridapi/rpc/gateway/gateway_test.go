package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type args struct {
	A     float64  `json:"a"`
	B     float64  `json:"b"`
	Notes []string `json:"notes"`
}

// serve starts a worker, and a gateway to it.
func serve(t *testing.T, cfg Config) (url string, worker *rpc.Worker) {
	t.Helper()
	w := rpc.NewWorker(rpc.WorkerConfig{Slots: 4})
	must(t, rpc.Register(w, "add", func(_ context.Context, x args) (float64, error) { return x.A + x.B, nil }))
	must(t, rpc.Register(w, "fail", func(_ context.Context, text string) (int, error) { return 0, errors.New(text) }))
	must(t, rpc.Register(w, "sleep", func(ctx context.Context, _ any) (int, error) { <-ctx.Done(); return 0, ctx.Err() }))
	must(t, rpc.RegisterModule(w, "counter", func(context.Context, int) (int, error) { return 1, nil }))
	must(t, rpc.RegisterMethod(w, "counter", "count", func(_ context.Context, s, n int) (int, error) { return s + n, nil }))
	must(t, rpc.RegisterStream(w, "upper", func(_ context.Context, r io.Reader, out io.Writer) error {
		b, err := io.ReadAll(r)
		out.Write(bytes.ToUpper(b))
		return err
	}))
	must(t, rpc.RegisterStream(w, "nothing", func(_ context.Context, r io.Reader, _ io.Writer) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go w.Serve(ln)
	t.Cleanup(func() { w.Close() })
	var d net.Dialer
	c, err := rpc.NewClient(rpc.ClientConfig{Dial: d.DialContext, Workers: []string{ln.Addr().String()}})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	cfg.Client = func(context.Context) (*rpc.Client, func(), error) { return c, func() {}, nil }
	cfg.SpoolDir = t.TempDir()
	s := httptest.NewServer(New(cfg))
	t.Cleanup(func() {
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s.URL, w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func post(t *testing.T, url, kind, body string) (status int, answer string, header http.Header) {
	t.Helper()
	res, err := http.Post(url, kind, strings.NewReader(body))
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(b), res.Header
}

const (
	inJSON  = "application/json"
	inBytes = "application/octet-stream"
)

func TestCall(t *testing.T) {
	url, _ := serve(t, Config{Wait: 300 * time.Millisecond, MaxValue: 1000, MaxStream: 3 << 20})
	long := strings.Repeat("long ", 400_000)
	for _, tt := range []struct {
		name, path, kind, body string
		status                 int
		want                   string // the answer; of a problem: its type and parts of it
		more                   []string
	}{
		{"values", "add", inJSON, `{"a": 1, "b": 2.5}`, 200, "3.5\n", nil},
		{"with a charset", "add", inJSON + "; charset=utf-8", `{"a": 1}`, 200, "1\n", nil},
		{"options", "add?timeout=30s&once=true", inJSON, `{"a": 4}`, 200, "4\n", nil},
		{"bytes", "upper", inBytes, "hello\n", 200, "HELLO\n", nil},
		{"long", "upper", inBytes, long, 200, strings.ToUpper(long), nil},
		{"no result", "nothing", inBytes, "x", 200, "", nil},
		{"the function fails", "fail", inJSON, `"no such star"`, 422, "function-failed", []string{`"detail":"no such star"`, `"call":`, `"function":"fail"`, `"worker":"127.0.0.1:`}},
		{"wrong type", "add", inJSON, `"two"`, 400, "wrong-argument", []string{`"function":"add"`, `"worker":"127.0.0.1:`, `"call":`}},
		{"no JSON", "add", inJSON, `{a: 1}`, 400, "wrong-argument", []string{"{a float64; b float64; notes []string} -\\u003e float64"}},
		{"as a form", "add", "application/x-www-form-urlencoded", `{"a": 1}`, 400, "wrong-argument", []string{"Content-Type: application/json"}},
		{"large value", "add", inJSON, `{"a": 1, "notes": ["` + strings.Repeat("x", 1000) + `"]}`, 413, "argument-too-large", []string{"more than 1000 bytes"}},
		{"large stream", "upper", inBytes, strings.Repeat("x", 3<<20+1), 413, "argument-too-large", nil},
		{"unknown", "divide", inJSON, `1`, 404, "no-worker", []string{`"function":"divide"`, "grid workers"}},
		{"in time", "sleep?timeout=100ms", inJSON, `1`, 504, "timeout", []string{`"function":"sleep"`, `"call":`}},
		{"without its state", "count", inJSON, `1`, 400, "needs-state", []string{`"function":"count"`}},
		{"parameter", "add?tries=3", inJSON, `1`, 400, "wrong-parameter", []string{`\"tries\"`}},
		{"wrong timeout", "add?timeout=soon", inJSON, `1`, 400, "wrong-parameter", nil},
		{"wrong verify", "add?verify=3of2", inJSON, `1`, 400, "wrong-parameter", nil},
		{"both", "add?verify=2of3&once=true", inJSON, `1`, 400, "wrong-parameter", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, answer, header := post(t, url+"/v1/functions/"+tt.path, tt.kind, tt.body)
			if status != tt.status {
				t.Fatalf("status %d, want %d: %.300s", status, tt.status, answer)
			}
			if status == 200 {
				if answer != tt.want || header.Get("Grid-Call") == "" {
					t.Errorf("%.100q, want %.100q; %v", answer, tt.want, header)
				}
				return
			}
			var p struct{ Type, Title, Detail, Next string }
			if err := json.Unmarshal([]byte(answer), &p); err != nil || p.Type != problemBase+tt.want || p.Title == "" || p.Detail == "" || p.Next == "" {
				t.Errorf("problem %s, %v", answer, err)
			}
			if header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("type %q", header.Get("Content-Type"))
			}
			for _, part := range tt.more {
				if !strings.Contains(answer, part) {
					t.Errorf("%q is not in %s", part, answer)
				}
			}
		})
	}
}

func TestLists(t *testing.T) {
	url, _ := serve(t, Config{})
	get := func(path string, v any) {
		t.Helper()
		res, err := http.Get(url + path)
		must(t, err)
		defer res.Body.Close()
		if res.StatusCode != 200 {
			t.Fatalf("%s: %s", path, res.Status)
		}
		must(t, json.NewDecoder(res.Body).Decode(v))
	}
	var functions struct {
		Functions []struct {
			Name, Kind, Signature string
			Workers               []string
			Slots                 int
		}
	}
	get("/v1/functions", &functions)
	if n := len(functions.Functions); n != 7 || functions.Functions[0].Name != "add" || functions.Functions[0].Kind != "values" || functions.Functions[0].Slots != 4 || functions.Functions[6].Kind != "stream" {
		t.Errorf("functions = %+v", functions)
	}
	var workers struct{ Workers []rpc.WorkerStatus }
	get("/v1/workers", &workers)
	if len(workers.Workers) != 1 || !workers.Workers[0].Connected || len(workers.Workers[0].Functions) != 7 {
		t.Errorf("workers = %+v", workers)
	}
	var api struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct{ Schema map[string]any }
			}
		}
	}
	get("/openapi.json", &api)
	schema := api.Paths["/v1/functions/add"]["post"].RequestBody.Content[inJSON].Schema
	b, err := json.Marshal(schema)
	must(t, err)
	want := `{"properties":{"a":{"type":"number"},"b":{"type":"number"},"notes":{"items":{"type":"string"},"type":"array"}},"type":"object"}`
	if api.OpenAPI != "3.1.0" || string(b) != want {
		t.Errorf("schema of add = %s", b)
	}
	if _, there := api.Paths["/v1/functions/count"]; there {
		t.Error("a function that needs a state is described")
	}
	if status, answer, _ := post(t, url+"/v1/nothing", inJSON, ""); status != 404 || !strings.Contains(answer, "no-such-path") {
		t.Errorf("another path: %d %s", status, answer)
	}
}

func TestTooMany(t *testing.T) {
	url, _ := serve(t, Config{MaxCalls: 2})
	var all sync.WaitGroup
	defer all.Wait()
	for range 2 {
		all.Go(func() {
			for status := http.StatusServiceUnavailable; status == http.StatusServiceUnavailable; { // the calls below may come first
				status, _, _ = post(t, url+"/v1/functions/sleep?timeout=1s", inJSON, "1")
			}
		})
	}
	for range 100 {
		status, answer, header := post(t, url+"/v1/functions/add?timeout=1s", inJSON, `{}`)
		if status == http.StatusServiceUnavailable {
			if header.Get("Retry-After") == "" || !strings.Contains(answer, "too-many-calls") {
				t.Errorf("%s %v", answer, header)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("any number of calls is taken")
}

// Browsers, and others who lack the token, are kept out.
func TestGuard(t *testing.T) {
	h := Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") }), "secret token")
	for _, tt := range []struct {
		name   string
		host   string
		header map[string]string
		status int
	}{
		{"token", "127.0.0.1:7080", map[string]string{"Authorization": "Bearer secret token"}, 200},
		{"by name, IPv6", "[::1]:7080", map[string]string{"Authorization": "bearer secret token"}, 200},
		{"localhost", "localhost:7080", map[string]string{"Authorization": "Bearer secret token"}, 200},
		{"none", "127.0.0.1:7080", nil, 401},
		{"wrong", "127.0.0.1:7080", map[string]string{"Authorization": "Bearer secret"}, 401},
		{"other scheme", "127.0.0.1:7080", map[string]string{"Authorization": "Basic secret token"}, 401},
		{"DNS rebinding", "evil.example:7080", map[string]string{"Authorization": "Bearer secret token"}, 403},
		{"looks like loopback", "127.0.0.1.evil.example", map[string]string{"Authorization": "Bearer secret token"}, 403},
		{"a page", "127.0.0.1:7080", map[string]string{"Authorization": "Bearer secret token", "Origin": "https://evil.example"}, 403},
		{"a local page", "127.0.0.1:7080", map[string]string{"Authorization": "Bearer secret token", "Origin": "null"}, 403},
		{"a page's image", "127.0.0.1:7080", map[string]string{"Authorization": "Bearer secret token", "Sec-Fetch-Site": "cross-site"}, 403},
		{"a preflight", "127.0.0.1:7080", map[string]string{"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 403},
	} {
		r := httptest.NewRequest("POST", "/v1/functions/add", nil)
		r.Host = tt.host
		for k, v := range tt.header {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status || (w.Body.String() == "in") != (tt.status == 200) || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "localhost"
	r.Header.Set("Authorization", "Bearer ")
	w := httptest.NewRecorder()
	Guard(h, "").ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("an empty token lets everybody in: %d", w.Code)
	}
}

func TestSchema(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"float64", `{"type":"number"}`},
		{"[]uint8", `{"contentEncoding":"base64","type":"string"}`},
		{"[3]int", `{"items":{"type":"integer"},"type":"array"}`},
		{"map[string][]bool", `{"additionalProperties":{"items":{"type":"boolean"},"type":"array"},"type":"object"}`},
		{"{}", `{}`},
		{"interface", `{}`},
		{"{a {b uint8}; c string}", `{"properties":{"a":{"properties":{"b":{"minimum":0,"type":"integer"}},"type":"object"},"c":{"type":"string"}},"type":"object"}`},
		{"{a int", `{}`},
		{"{a", `{}`},
		{"[", `{}`},
		{"map[", `{}`},
		{strings.Repeat("[]", 1000) + "int", `{}`},
	} {
		if b, err := json.Marshal(schemaOf(tt.text)); err != nil || string(b) != tt.want {
			t.Errorf("%.40s is %s, %v", tt.text, b, err)
		}
	}
}

// What a worker sends as a signature is not to be trusted.
func FuzzSchema(f *testing.F) {
	f.Add("{a {b uint8}; c string} -> map[string][]float64")
	f.Fuzz(func(t *testing.T, text string) {
		in, out := schemasOf(text)
		if _, err := json.Marshal([]object{in, out}); err != nil {
			t.Error(err)
		}
	})
}
