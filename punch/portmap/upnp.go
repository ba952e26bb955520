package portmap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	ssdpPort = 1900
	// Bounds of what a router may tell.
	maxDescription = 256 << 10
	maxSOAP        = 64 << 10
	httpTimeout    = 4 * time.Second
	// maxConflicts is how many outside ports are tried when others have them.
	maxConflicts = 4
	// maxListed bounds the mappings looked through for leftovers of ours.
	maxListed = 64

	// Errors of WANIPConnection 2, section 2.5.
	upnpConflict      = 718
	upnpOnlyPermanent = 725
)

// ssdpGroup is where UPnP devices listen.
var ssdpGroup = netip.MustParseAddrPort("239.255.255.250:1900")

// serviceTypes are the services that map ports, the best first.
var serviceTypes = []string{
	"urn:schemas-upnp-org:service:WANIPConnection:2",
	"urn:schemas-upnp-org:service:WANIPConnection:1",
	"urn:schemas-upnp-org:service:WANPPPConnection:1",
}

// A UPnPError is an error of a control action.
type UPnPError struct {
	Action string
	Code   int // zero: the answer was none of UPnP
}

func (e *UPnPError) Error() string {
	switch e.Code {
	case upnpConflict:
		return "portmap: the router refuses by UPnP: another device has the port (718)"
	case upnpOnlyPermanent:
		return "portmap: the router refuses by UPnP: it only makes permanent mappings (725)"
	case 606:
		return "portmap: the router refuses by UPnP: it is not allowed (606)"
	}
	return fmt.Sprintf("portmap: the router refuses by UPnP: %s failed with error %d", e.Action, e.Code)
}

// A upnp speaks UPnP-IGD with a router.
type upnp struct {
	r *router

	// Found by look:
	control *url.URL
	service string
	address netip.Addr

	permanent bool // error 725 was seen, and leftovers were removed
}

// look finds the router's service and asks for the outside address.
func (u *upnp) look(ctx context.Context) (netip.Addr, error) {
	u.control = nil
	location, err := u.search(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	return u.describe(ctx, location)
}

// describe reads the router's description and asks for the outside address.
func (u *upnp) describe(ctx context.Context, location *url.URL) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*httpTimeout)
	defer cancel()
	b, err := u.fetch(ctx, http.MethodGet, location, "", nil, maxDescription)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("portmap: read the router's UPnP description: %w", err)
	}
	service, path, err := parseDescription(b)
	if err != nil {
		return netip.Addr{}, err
	}
	control, err := location.Parse(path)
	if err != nil || !u.ofRouter(control) {
		return netip.Addr{}, errMalformed
	}
	u.control, u.service = control, service
	return u.outside(ctx)
}

// outside asks for the address outside.
func (u *upnp) outside(ctx context.Context) (netip.Addr, error) {
	answer, err := u.call(ctx, "GetExternalIPAddress")
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(answer["NewExternalIPAddress"]))
	if err != nil {
		return netip.Addr{}, errMalformed
	}
	u.address = addr.Unmap()
	return u.address, nil
}

// search asks for gateways and returns where the router describes itself.
func (u *upnp) search(ctx context.Context) (*url.URL, error) {
	var requests [][]byte
	for _, device := range []string{"InternetGatewayDevice:1", "InternetGatewayDevice:2"} {
		requests = append(requests, []byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n"+
			"ST: urn:schemas-upnp-org:device:"+device+"\r\n\r\n"))
	}
	var found *url.URL
	err := u.r.ask(ctx, ssdpPort, requests, func(b []byte) bool {
		location, err := parseSSDP(b)
		if err != nil || !u.ofRouter(location) {
			return false
		}
		found = location
		return true
	}, ssdpGroup)
	return found, err
}

// ofRouter reports whether a URL leads to the router itself: what answers a
// search names addresses of its own choice, and gets no request elsewhere.
func (u *upnp) ofRouter(l *url.URL) bool {
	addr, err := netip.ParseAddr(l.Hostname())
	return err == nil && l.Scheme == "http" && l.User == nil && addr.Unmap() == u.r.gateway
}

// parseSSDP returns the LOCATION of an answer to a search (UPnP Device
// Architecture 1.1, section 1.3.3).
func parseSSDP(b []byte) (*url.URL, error) {
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil, errMalformed
	}
	defer response.Body.Close()
	st := response.Header.Get("ST")
	if response.StatusCode != http.StatusOK || !strings.Contains(st, "InternetGatewayDevice") && !strings.Contains(st, "ssdp:all") {
		return nil, errMalformed
	}
	location, err := url.Parse(response.Header.Get("LOCATION"))
	if err != nil || location.Host == "" {
		return nil, errMalformed
	}
	return location, nil
}

// A description is what we read of a device's, which holds others.
type description struct {
	Services []struct {
		Type    string `xml:"serviceType"`
		Control string `xml:"controlURL"`
	} `xml:"serviceList>service"`
	Devices []description `xml:"deviceList>device"`
}

// parseDescription returns the best service that maps ports, and its control
// URL, which may be relative.
func parseDescription(b []byte) (service, control string, err error) {
	var root struct {
		Device description `xml:"device"`
	}
	if xml.Unmarshal(b, &root) != nil {
		return "", "", errMalformed
	}
	best := len(serviceTypes)
	for open := []description{root.Device}; len(open) > 0; {
		d := open[0]
		open = append(open[1:], d.Devices...)
		for _, s := range d.Services {
			if i := slices.Index(serviceTypes, strings.TrimSpace(s.Type)); i >= 0 && i < best {
				best, service, control = i, serviceTypes[i], strings.TrimSpace(s.Control)
			}
		}
	}
	if service == "" {
		return "", "", errors.New("portmap: the router's UPnP maps no ports")
	}
	return service, control, nil
}

// fetch runs one HTTP request with the router and returns at most limit bytes.
func (u *upnp) fetch(ctx context.Context, method string, to *url.URL, action string, body []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if action != "" {
		request.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
		request.Header.Set("SOAPAction", `"`+u.service+"#"+action+`"`)
	}
	transport := &http.Transport{DialContext: u.r.dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) > limit:
		u.r.counters.malformed.Add(1)
		return nil, errMalformed
	case response.StatusCode == http.StatusOK:
		return b, nil
	case action != "" && response.StatusCode == http.StatusInternalServerError:
		code, _ := strconv.Atoi(parseSOAP(b)["errorCode"])
		return nil, &UPnPError{action, code}
	}
	return nil, fmt.Errorf("portmap: the router answers with HTTP status %d", response.StatusCode)
}

// call runs a control action with arguments, name and value in turn.
func (u *upnp) call(ctx context.Context, action string, arguments ...string) (map[string]string, error) {
	if u.control == nil {
		return nil, ErrNoAnswer
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<?xml version="1.0"?>`+"\r\n"+`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:%s xmlns:u="%s">`, action, u.service)
	for i := 0; i+1 < len(arguments); i += 2 {
		fmt.Fprintf(&b, "<%s>", arguments[i])
		xml.EscapeText(&b, []byte(arguments[i+1]))
		fmt.Fprintf(&b, "</%s>", arguments[i])
	}
	fmt.Fprintf(&b, "</u:%s></s:Body></s:Envelope>\r\n", action)
	answer, err := u.fetch(ctx, http.MethodPost, u.control, action, b.Bytes(), maxSOAP)
	if err != nil {
		return nil, err
	}
	return parseSOAP(answer), nil
}

// parseSOAP returns the texts of the innermost elements by name. Of what is no
// XML it returns what came before.
func parseSOAP(b []byte) map[string]string {
	values := make(map[string]string)
	d := xml.NewDecoder(bytes.NewReader(b))
	name, text := "", ""
	for {
		token, err := d.Token()
		if err != nil {
			return values
		}
		switch t := token.(type) {
		case xml.StartElement:
			name, text = t.Name.Local, ""
		case xml.CharData:
			text += string(t)
		case xml.EndElement:
			if t.Name.Local == name {
				values[name] = strings.TrimSpace(text)
			}
			name, text = "", ""
		}
	}
}

func (u *upnp) mapPort(ctx context.Context, want netip.AddrPort) (lease, error) {
	if u.control == nil {
		if _, err := u.look(ctx); err != nil {
			return lease{}, err
		}
	} else if _, err := u.outside(ctx); err != nil {
		u.control = nil // the router may describe itself anew
		return lease{}, err
	}
	port := want.Port()
	if port == 0 {
		port = u.r.local.Port()
	}
	for conflicts := 0; ; {
		lifetime := leaseTime
		if u.permanent {
			lifetime = 0
		}
		err := u.add(ctx, port, lifetime)
		var refusal *UPnPError
		switch {
		case err == nil:
			return lease{protocol: UPnP, outside: netip.AddrPortFrom(u.address, port), lifetime: lifetime}, nil
		case !errors.As(err, &refusal):
			return lease{}, err
		case refusal.Code == upnpOnlyPermanent && !u.permanent:
			u.permanent = true
			u.removeLeftovers(ctx)
		case refusal.Code == upnpConflict && conflicts < maxConflicts:
			conflicts++
			port = uint16(49152 + rand.IntN(65536-49152))
		default:
			return lease{}, err
		}
	}
}

func (u *upnp) add(ctx context.Context, port uint16, lifetime time.Duration) error {
	_, err := u.call(ctx, "AddPortMapping",
		"NewRemoteHost", "",
		"NewExternalPort", strconv.Itoa(int(port)),
		"NewProtocol", "UDP",
		"NewInternalPort", strconv.Itoa(int(u.r.local.Port())),
		"NewInternalClient", u.r.local.Addr().String(),
		"NewEnabled", "1",
		"NewPortMappingDescription", u.r.label,
		"NewLeaseDuration", strconv.Itoa(int(lifetime/time.Second)))
	return err
}

func (u *upnp) remove(ctx context.Context, port string) error {
	_, err := u.call(ctx, "DeletePortMapping", "NewRemoteHost", "", "NewExternalPort", port, "NewProtocol", "UDP")
	return err
}

func (u *upnp) unmap(ctx context.Context, l lease) error {
	return u.remove(ctx, strconv.Itoa(int(l.outside.Port())))
}

// removeLeftovers removes permanent mappings with our label for this computer,
// which a process that was killed has left.
func (u *upnp) removeLeftovers(ctx context.Context) {
	var ports []string
	for i := range maxListed {
		m, err := u.call(ctx, "GetGenericPortMappingEntry", "NewPortMappingIndex", strconv.Itoa(i))
		if err != nil {
			break // error 713 after the last one
		}
		port, err := strconv.ParseUint(m["NewExternalPort"], 10, 16)
		if err == nil && m["NewPortMappingDescription"] == u.r.label && m["NewProtocol"] == "UDP" && m["NewInternalClient"] == u.r.local.Addr().String() {
			ports = append(ports, strconv.FormatUint(port, 10))
		}
	}
	for _, port := range ports {
		if u.remove(ctx, port) == nil {
			u.r.counters.leftovers.Add(1)
		}
	}
}
