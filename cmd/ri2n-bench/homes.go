package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A homesBed is two homes on the Internet, each with two uplinks and a NAT
// behind each of them: nftables rules in namespaces of their own. At home each
// computer has an address behind both NATs. A public host tells them what
// their addresses look like from outside, as a rendezvous would.
type homesBed struct {
	network *kernel.Network
	ends    [2]*ri2n.Endpoint
	links   [2][2]*ri2n.Link
	seen    [2][2]netip.AddrPort // of links, from outside
	peer    ri2n.PeerID
	mirror  net.PacketConn
	done    sync.WaitGroup
}

// homeNAT is what Linux home routers do: kept ports, and nothing comes in that
// was not asked for.
var homeNAT = netsim.NAT{Mapping: netsim.EndpointIndependent, Filtering: netsim.AddressAndPortDependent}

// homeUplink is one way out of a home: with that of the other home, the round
// trip is 10 ms.
var homeUplink = line(100, 5*time.Millisecond, 0)

func homeNames(home, uplink int) (nat, host string) {
	suffix := string(rune('a'+home)) + strconv.Itoa(uplink+1)
	return "nat-" + suffix, "host-" + suffix
}

// startHomes builds the network and both endpoints.
func startHomes(ctx context.Context, kind ri2nKind) (_ *homesBed, err error) {
	sc := netsim.Scenario{Seed: 1, Hosts: []netsim.HostNode{{Name: "mirror"}}}
	for home := range 2 {
		for uplink := range 2 {
			nat, host := homeNames(home, uplink)
			sc.NATs = append(sc.NATs, netsim.NATNode{Name: nat, Uplink: homeUplink, NAT: homeNAT})
			sc.Hosts = append(sc.Hosts, netsim.HostNode{Name: host, Parent: nat})
		}
	}
	b := &homesBed{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.network, err = kernel.Start(sc); err != nil {
		return nil, err
	}
	if b.mirror, err = b.network.Host("mirror").ListenPacket(ctx, basePort); err != nil {
		return nil, err
	}
	b.done.Go(func() { reflect(b.mirror) })
	for home := range 2 {
		key, err := newIdentity()
		if err != nil {
			return nil, err
		}
		b.peer = key.ri2n.PeerID() // the last, which is dialed
		b.ends[home], err = ri2n.NewEndpoint(ri2n.Config{
			Identity: key.ri2n, Congestion: kind.congestion, Authorize: func(ri2n.PeerID) error { return nil },
		})
		if err != nil {
			return nil, err
		}
		for uplink := range 2 {
			_, host := homeNames(home, uplink)
			pc, err := b.network.Host(host).ListenPacket(ctx, basePort)
			if err != nil {
				return nil, err
			}
			l, err := b.ends[home].AddLink("uplink"+strconv.Itoa(uplink+1), pc)
			if err != nil {
				pc.Close()
				return nil, err
			}
			b.links[home][uplink] = l
			if b.seen[home][uplink], err = addressSeen(l, b.mirror.LocalAddr()); err != nil {
				return nil, fmt.Errorf("%s: %w", host, err)
			}
		}
	}
	return b, nil
}

// reflect answers each datagram with the address it came from.
func reflect(pc net.PacketConn) {
	buf := make([]byte, 64)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		pc.WriteTo([]byte(from.String()), from)
	}
}

// addressSeen asks the mirror what l looks like from outside.
func addressSeen(l *ri2n.Link, mirror net.Addr) (netip.AddrPort, error) {
	pc := l.Other()
	defer pc.SetReadDeadline(time.Time{})
	buf := make([]byte, 64)
	for range 10 {
		if _, err := pc.WriteTo([]byte{0}, mirror); err != nil {
			return netip.AddrPort{}, err
		}
		pc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, _, err := pc.ReadFrom(buf); err == nil {
			return netip.ParseAddrPort(string(buf[:n]))
		}
	}
	return netip.AddrPort{}, errors.New("nobody says what the address looks like from outside")
}

func (b *homesBed) close() {
	for _, e := range b.ends {
		if e != nil {
			e.Close()
		}
	}
	if b.mirror != nil {
		b.mirror.Close()
	}
	if b.network != nil {
		b.network.Close()
	}
	b.done.Wait()
}

// A homesDialer opens the session from home a to home b over the given number
// of uplinks. Either home sends toward the other's mapping, so that both NATs
// let the answers in.
type homesDialer struct {
	*homesBed
	uplinks  int
	accepted chan conn
}

func (d homesDialer) Dial(ctx context.Context) (conn, error) {
	// The answering home cannot dial; any datagram opens its filter.
	if _, err := d.links[1][0].Other().WriteTo([]byte{0}, net.UDPAddrFromAddrPort(d.seen[0][0])); err != nil {
		return nil, err
	}
	session, err := d.ends[0].Dial(ctx, d.peer, ri2n.Remote{Link: d.links[0][0], Addr: d.seen[1][0]})
	if err != nil {
		return nil, err
	}
	answering, err := d.ends[1].Accept(ctx)
	if err != nil {
		return nil, err
	}
	if d.uplinks > 1 {
		var both sync.WaitGroup
		var errs [2]error
		for home, s := range []*ri2n.Session{session, answering} {
			both.Go(func() {
				_, errs[home] = s.AddPath(ctx, ri2n.Remote{Link: d.links[home][1], Addr: d.seen[1-home][1]})
			})
		}
		both.Wait()
		if errs[0] != nil && errs[1] != nil {
			return nil, fmt.Errorf("add the second path: %w", errors.Join(errs[:]...))
		}
	}
	stream, err := session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	d.accepted <- &ri2nConn{session: answering, accepted: true}
	return &ri2nConn{Stream: stream, session: session}, nil
}

// Close leaves the endpoints to the bed.
func (d homesDialer) Close() error { return nil }

// Accept gives the sink its end of what Dial has opened.
func (d homesDialer) Accept(ctx context.Context) (conn, error) {
	select {
	case c := <-d.accepted:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d homesDialer) Addr() net.Addr { return d.mirror.LocalAddr() }

// runHomes measures a variant between two homes, ri2n alone.
func (k *comparison) runHomes(ctx context.Context, s scenario, v variant) {
	for _, name := range k.chosen(v) {
		kind := ri2nKind{}
		if name == "ri2n-cubic" {
			kind = withCUBIC
		}
		var all samples
		for r := range k.rounds {
			if ctx.Err() != nil {
				all.err = context.Cause(ctx)
				break
			}
			k.progress(v.label(s), r+1, k.rounds, name)
			if err := k.betweenHomes(ctx, kind, v, &all); err != nil {
				all.err = err
				break
			}
		}
		k.results = append(k.results, result{row: all.row(s.name, v.name, name)})
	}
}

// betweenHomes makes one transfer in a fresh network.
func (k *comparison) betweenHomes(ctx context.Context, kind ri2nKind, v variant, all *samples) error {
	bed, err := startHomes(ctx, kind)
	if err != nil {
		return err
	}
	defer bed.close()
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	uplinks := 2
	if v.oneLink {
		uplinks = 1
	}
	d := homesDialer{bed, uplinks, make(chan conn, 1)}
	beside.Go(func() { acceptLoop(ctx, d, 1) })
	length := inSeconds(k.seconds * max(v.longer, 1))
	fault := make(chan time.Time, 1)
	if v.cutUplink > 0 {
		beside.Go(func() {
			if sleep(ctx, length*2/5) != nil {
				return
			}
			nat, _ := homeNames(0, v.cutUplink-1)
			dead := homeUplink
			dead.Cut = true
			fault <- time.Now()
			bed.network.SetUplink(nat, dead)
		})
	}
	m, err := measureBulk(ctx, d, bulkRequest{For: length, Verify: true})
	if err != nil {
		return err
	}
	all.add(measured{Bulk: &m, Note: m.note})
	all.cpuPerGB = nil // both ends are this process, and so is the network
	select {
	case at := <-fault:
		all.recovered = append(all.recovered, m.Report.after(at.Add(recovery)))
	default:
	}
	return nil
}
