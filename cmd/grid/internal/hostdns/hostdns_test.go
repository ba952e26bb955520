package hostdns

import (
	"net/netip"
	"strings"
	"testing"
)

func TestContent(t *testing.T) {
	got := string(content(netip.MustParseAddr("127.90.0.53"), []byte("# by hand\nnameserver 192.0.2.1\n search example.net\nnameserver 192.0.2.2\noptions ndots:2 edns0\nsortlist 192.0.2.0\n")))
	var lines []string
	for line := range strings.Lines(got) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if want := "nameserver 127.90.0.53\nsearch example.net\noptions ndots:2 edns0\nsortlist 192.0.2.0\n"; strings.Join(lines, "") != want {
		t.Errorf("content is\n%s\nwant\n%s", got, want)
	}
}
