package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/overlay"
)

func TestListenMetrics(t *testing.T) {
	if ln, err := listenMetrics(""); ln != nil || err != nil {
		t.Errorf("no address: %v, %v", ln, err)
	}
	if _, err := listenMetrics("9479"); err == nil {
		t.Error("an address without a colon is taken")
	}
	ln, err := listenMetrics(":0")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(ln.Addr().String(), "127.0.0.1:") {
		t.Errorf("without a host it listens on %v, want loopback", ln.Addr())
	}
	node, err := overlay.Start(t.Context(), overlay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		serveMetrics(ctx, ln, node, slog.New(slog.DiscardHandler))
		close(done)
	}()
	answer, err := http.Get("http://" + ln.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); !strings.Contains(string(text), "\nri2n_links 1\n") {
		t.Errorf("the answer lacks ri2n_links 1: %.500s", text)
	}
	cancel()
	<-done
}
