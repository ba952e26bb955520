package portmap

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const rootXML = `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL></service></serviceList>
<deviceList><device><deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service>
</serviceList></device></deviceList></device></deviceList></device></root>`

func faultXML(code int) string {
	return fmt.Sprintf(`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>
<detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode><errorDescription>x</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code)
}

// A fakeIGD is the HTTP part of a UPnP router.
type fakeIGD struct {
	root    string
	outside string
	quirk   func(action string, arguments map[string]string) (code int)

	mu       sync.Mutex
	mappings []map[string]string
}

func (f *fakeIGD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		io.WriteString(w, f.root)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	_, action, _ := strings.Cut(strings.Trim(r.Header.Get("SOAPAction"), `"`), "#")
	arguments := parseSOAP(body)
	fail := func(code int) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, faultXML(code))
	}
	if f.quirk != nil {
		if code := f.quirk(action, arguments); code != 0 {
			fail(code)
			return
		}
	}
	answer := ""
	switch action {
	case "GetExternalIPAddress":
		answer = "<NewExternalIPAddress>" + f.outside + "</NewExternalIPAddress>"
	case "AddPortMapping":
		f.mappings = append(f.mappings, arguments)
	case "DeletePortMapping":
		for i, m := range f.mappings {
			if m["NewExternalPort"] == arguments["NewExternalPort"] {
				f.mappings = append(f.mappings[:i:i], f.mappings[i+1:]...)
				break
			}
		}
	case "GetGenericPortMappingEntry":
		i, err := strconv.Atoi(arguments["NewPortMappingIndex"])
		if err != nil || i >= len(f.mappings) {
			fail(713)
			return
		}
		for k, v := range f.mappings[i] {
			answer += "<" + k + ">" + v + "</" + k + ">"
		}
	}
	fmt.Fprintf(w, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:R xmlns:u="x">%s</u:R></s:Body></s:Envelope>`, answer)
}

// speakTo returns a client of the fake, with what it counts.
func speakTo(t *testing.T, f *fakeIGD) (*upnp, *url.URL) {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	location, err := url.Parse(s.URL + "/root.xml")
	if err != nil {
		t.Fatal(err)
	}
	return &upnp{r: &router{
		gateway: netip.MustParseAddr("127.0.0.1"), local: netip.MustParseAddrPort("127.0.0.1:40000"),
		label: "Instant Grid test", dial: (&net.Dialer{}).DialContext, counters: new(counters),
	}}, location
}

func TestUPnPMapsAndRemoves(t *testing.T) {
	f := &fakeIGD{root: rootXML, outside: "5.1.1.10"}
	u, location := speakTo(t, f)
	if addr, err := u.describe(t.Context(), location); err != nil || addr != outside.Addr() {
		t.Fatalf("outside %v, %v", addr, err)
	}
	l, err := u.mapPort(t.Context(), netip.AddrPort{})
	if err != nil || l.outside != netip.MustParseAddrPort("5.1.1.10:40000") || l.lifetime != leaseTime {
		t.Fatalf("lease %+v, %v", l, err)
	}
	if len(f.mappings) != 1 || f.mappings[0]["NewInternalClient"] != "127.0.0.1" || f.mappings[0]["NewProtocol"] != "UDP" {
		t.Errorf("mappings %v", f.mappings)
	}
	if err := u.unmap(t.Context(), l); err != nil || len(f.mappings) != 0 {
		t.Errorf("removed: %v, %v left", err, f.mappings)
	}
}

// Error 725: the router makes permanent mappings only. Those that an earlier run
// has left are removed, and nobody else's.
func TestUPnPOnlyPermanentLeases(t *testing.T) {
	entry := func(port, label, client, protocol string) map[string]string {
		return map[string]string{"NewExternalPort": port, "NewPortMappingDescription": label, "NewInternalClient": client, "NewProtocol": protocol}
	}
	f := &fakeIGD{root: rootXML, outside: "5.1.1.10", mappings: []map[string]string{
		entry("1", "Instant Grid test", "127.0.0.1", "UDP"),
		entry("2", "Instant Grid test", "127.0.0.2", "UDP"),
		entry("3", "console", "127.0.0.1", "UDP"),
		entry("4", "Instant Grid test", "127.0.0.1", "UDP"),
	}}
	f.quirk = func(action string, arguments map[string]string) int {
		if action == "AddPortMapping" && arguments["NewLeaseDuration"] != "0" {
			return upnpOnlyPermanent
		}
		return 0
	}
	u, location := speakTo(t, f)
	if _, err := u.describe(t.Context(), location); err != nil {
		t.Fatal(err)
	}
	l, err := u.mapPort(t.Context(), netip.AddrPort{})
	if err != nil || l.lifetime != 0 {
		t.Fatalf("lease %+v, %v", l, err)
	}
	var left []string
	for _, m := range f.mappings {
		left = append(left, m["NewExternalPort"])
	}
	if got := strings.Join(left, " "); got != "2 3 40000" || u.r.counters.leftovers.Load() != 2 {
		t.Errorf("left are %q, want 2 3 40000; counted %d", got, u.r.counters.leftovers.Load())
	}
}

func TestUPnPConflict(t *testing.T) {
	f := &fakeIGD{root: rootXML, outside: "5.1.1.10"}
	f.quirk = func(action string, arguments map[string]string) int {
		if action == "AddPortMapping" && arguments["NewExternalPort"] == "40000" {
			return upnpConflict
		}
		return 0
	}
	u, location := speakTo(t, f)
	if _, err := u.describe(t.Context(), location); err != nil {
		t.Fatal(err)
	}
	if l, err := u.mapPort(t.Context(), netip.AddrPort{}); err != nil || l.outside.Port() < 49152 {
		t.Errorf("lease %+v, %v", l, err)
	}
	f.quirk = func(action string, _ map[string]string) int {
		if action == "AddPortMapping" {
			return upnpConflict
		}
		return 0
	}
	var refusal *UPnPError
	if _, err := u.mapPort(t.Context(), netip.AddrPort{}); !errors.As(err, &refusal) || refusal.Code != upnpConflict {
		t.Errorf("without end: %v", err)
	}
}

func TestUPnPBadRouters(t *testing.T) {
	for _, tt := range []struct {
		name string
		fake *fakeIGD
	}{
		{"no XML", &fakeIGD{root: "<root", outside: "5.1.1.10"}},
		{"no service", &fakeIGD{root: "<root><device/></root>", outside: "5.1.1.10"}},
		{"control elsewhere", &fakeIGD{root: strings.Replace(rootXML, "/ctl", "http://192.0.2.1/ctl", 1), outside: "5.1.1.10"}},
		{"control is a file", &fakeIGD{root: strings.Replace(rootXML, "/ctl", "file:///etc/passwd", 1), outside: "5.1.1.10"}},
		{"endless description", &fakeIGD{root: rootXML + strings.Repeat(" ", maxDescription), outside: "5.1.1.10"}},
		{"no address", &fakeIGD{root: rootXML, outside: "none"}},
		{"fault", &fakeIGD{root: rootXML, quirk: func(string, map[string]string) int { return 501 }}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, location := speakTo(t, tt.fake)
			if addr, err := u.describe(t.Context(), location); err == nil {
				t.Errorf("the outside address is %v", addr)
			}
		})
	}
}

func TestParseSSDP(t *testing.T) {
	const st = "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
	u := &upnp{r: &router{gateway: netip.MustParseAddr("192.168.1.1")}}
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{"router", "HTTP/1.1 200 OK\r\n" + st + "LOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n", true},
		{"another computer", "HTTP/1.1 200 OK\r\n" + st + "LOCATION: http://192.168.1.9/root.xml\r\n\r\n", false},
		{"name", "HTTP/1.1 200 OK\r\n" + st + "LOCATION: http://router/root.xml\r\n\r\n", false},
		{"user", "HTTP/1.1 200 OK\r\n" + st + "LOCATION: http://a:b@192.168.1.1/root.xml\r\n\r\n", false},
		{"https", "HTTP/1.1 200 OK\r\n" + st + "LOCATION: https://192.168.1.1/root.xml\r\n\r\n", false},
		{"other device", "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:MediaServer:1\r\nLOCATION: http://192.168.1.1/\r\n\r\n", false},
		{"no location", "HTTP/1.1 200 OK\r\n" + st + "\r\n", false},
		{"notification", "NOTIFY * HTTP/1.1\r\n" + st + "LOCATION: http://192.168.1.1/\r\n\r\n", false},
		{"nothing", "", false},
	} {
		location, err := parseSSDP([]byte(tt.text))
		if got := err == nil && u.ofRouter(location); got != tt.want {
			t.Errorf("%s: taken %v, want %v (%v, %v)", tt.name, got, tt.want, location, err)
		}
	}
}
