package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Guard returns a handler for a listener on loopback: it lets h answer requests
// that bear the token (RFC 6750), and refuses what the page of a browser sends,
// also one whose name has been made to lead here (DNS rebinding).
func Guard(h http.Handler, token string) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			writeProblem(w, problem{kind: "forbidden", status: http.StatusForbidden, Title: "Not for this host", Detail: "the request is for another host than this computer",
				Next: "use http://127.0.0.1:PORT"})
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); r.Header.Get("Origin") != "" || site != "" && site != "none" {
			writeProblem(w, problem{kind: "forbidden", status: http.StatusForbidden, Title: "Not for pages", Detail: "the request comes from a page in a browser",
				Next: "call from a program"})
			return
		}
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(given)))
		if token == "" || !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="grid"`)
			writeProblem(w, problem{kind: "unauthorized", status: http.StatusUnauthorized, Title: "The token is missing or wrong",
				Detail: "the request has no valid Authorization: Bearer TOKEN", Next: "read the token from the file http.token in the state directory"})
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a Host header names this computer's loopback.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
