package main

import (
	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// servicesSettings say what the agent does for programs that embed nothing of
// ours, from its start (docs/sockets.md).
type servicesSettings struct {
	forward, expose []string
	proxy           string
	proxyOutside    bool
	dns             string
	dnsUpstream     []string
	dnsSystem       bool
}

func defaultServices() *servicesSettings { return new(servicesSettings) }

func (s *servicesSettings) section() config.Section {
	return config.Section{
		Name: "services",
		Doc:  "What the agent does for programs that embed nothing of ours (docs/sockets.md).",
		Keys: []config.Key{
			{
				Name: "forward", Value: &s.forward,
				Doc:  "Local ports that lead to a member's: PORT=NAME:PORT or HOST:PORT=NAME:PORT, with /udp behind it for packets.",
				Flag: "forward", Usage: "lead a local port to a member's: `PORT=NAME:PORT`, with /udp behind it for packets; may be repeated",
				Check: func() error { return checkAll(s.forward, parseForward) },
			},
			{
				Name: "expose", Value: &s.expose,
				Doc:  "Local ports offered to members: PORT or PORT=HOST:PORT, with /udp behind it for packets, and SERVICE@ before it for the name that members find it by: http@8080.",
				Flag: "expose", Usage: "offer a local port to members: `[SERVICE@]PORT[=HOST:PORT]`, with /udp behind it for packets; may be repeated",
				Check: func() error { return checkAll(s.expose, parseExpose) },
			},
			{
				Name: "proxy", Value: &s.proxy,
				Doc:  "HOST:PORT of a SOCKS5 proxy; a port alone is one of loopback. Empty: none.",
				Flag: "proxy", Usage: "run a SOCKS5 proxy at `HOST:PORT`; 1080 is that port on loopback (default off)",
				Check: func() error { return checkListen(s.proxy) },
			},
			{
				Name: "proxy_outside", Value: &s.proxyOutside,
				Doc:  "Whether the proxy connects to addresses outside the grid, too.",
				Flag: "proxy-outside", Usage: "let the proxy connect to addresses outside the grid, too",
			},
			{
				Name: "dns", Value: &s.dns,
				Doc:  "HOST:PORT of a DNS resolver for .grid; a port alone is one of loopback. Empty: none.",
				Flag: "dns", Usage: "run a DNS resolver for .grid at `HOST:PORT`; 5300 is that port on loopback (default off)",
				Check: func() error { return checkListen(s.dns) },
			},
			{
				Name: "dns_upstream", Value: &s.dnsUpstream,
				Doc: "Resolvers for other names. Empty: those of this computer.",
			},
			{
				Name: "dns_system", Value: &s.dnsSystem,
				Doc:  "Whether all programs of this computer ask that resolver, at " + systemDNS + " unless dns says otherwise. It takes root, and with systemd-resolved the network interface (tun.enabled). It is undone when the agent ends.",
				Flag: "dns-system", Usage: "have all programs of this computer ask a DNS resolver for .grid, until the agent ends (root)",
			},
		},
	}
}

func checkListen(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseLocal(text, "")
	return err
}

func checkAll(texts []string, parse func(string) (serviceSpec, error)) error {
	for _, text := range texts {
		if _, err := parse(text); err != nil {
			return err
		}
	}
	return nil
}

// specs returns what is to run.
func (s *servicesSettings) specs() (list []serviceSpec, err error) {
	add := func(spec serviceSpec, failure error) {
		list = append(list, spec)
		if err == nil {
			err = failure
		}
	}
	for _, text := range s.forward {
		add(parseForward(text))
	}
	for _, text := range s.expose {
		add(parseExpose(text))
	}
	if s.proxy != "" {
		listen, err := parseLocal(s.proxy, "grid up --proxy "+defaultProxy)
		add(serviceSpec{Kind: kindProxy, Listen: listen, AllowOutside: s.proxyOutside}, err)
	}
	dns := s.dns
	if dns == "" && s.dnsSystem {
		dns = systemDNS
	}
	if dns != "" {
		listen, err := parseLocal(dns, "grid up --dns "+defaultDNS)
		add(serviceSpec{Kind: kindDNS, Listen: listen, Upstream: s.dnsUpstream, System: s.dnsSystem}, err)
	}
	return list, err
}

// apply opens every service before it runs one, so that the agent does not start
// with a port missing.
func (s *servicesSettings) apply(a *agent) error {
	specs, err := s.specs()
	if err != nil {
		return err
	}
	var opened []*service
	for _, spec := range specs {
		o, err := a.services.open(a.ctx, spec, a.log)
		if err != nil {
			for _, o := range opened {
				o.close()
			}
			return err
		}
		opened = append(opened, o)
	}
	for _, o := range opened {
		a.log.Info("service", "does", o.text())
		a.running.Go(func() {
			if err := o.run(a.ctx); err != nil {
				a.log.Error("service has ended", "service", o.text(), "err", err)
			}
		})
	}
	return nil
}
