package main

import (
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
)

// options are the flags, as typed.
type options struct {
	listen        string
	stunListen    string
	alternate     string
	publicHost    string
	dir           string
	admit         string
	members       string
	ledger        string
	etcd          []string
	grids         []string
	metricsListen string
	relayRate     byteRate
	guestRate     byteRate
	guestQuota    byteSize
	maxPeers      int
	maxPerPrefix  int
	verbose       bool
	check         bool
}

func newCommand() *cobra.Command {
	o := options{
		guestRate:  100_000_000 / 8,
		guestQuota: 1 << 30,
	}
	cmd := &cobra.Command{
		Use:   "rendezvous",
		Short: "Introduce peers to each other and relay what cannot go directly",
		Long: `Runs a rendezvous: the public server at which agents register, learn how they
look from outside, and exchange datagrams while, or when, no direct path exists.

It prints its address, HOST:PORT#PEERID, which agents are given. Its key is made
at the first start and kept in --dir.

By default only members are served: those of the grids whose ledger it keeps; the
peer IDs in --members, one to a line, read again when the file changes or on
SIGHUP; and whoever holds a one-time token of a member. What is refused says
which line to add. With --admit key the members file does not count.

The ledger says who belongs to a grid. At first it takes in one grid, from
whoever shows the claim code that is printed at start (grid init NAME --claim
CODE), and those that --grid names. It is kept in a file, or with --etcd in an
etcd that several rendezvous servers share.

SIGINT and SIGTERM end it in order. Metrics are at /metrics, health at /healthz
and the use of each peer at /peers on --metrics-listen.`,
		Example: `rendezvous --public-host 192.0.2.1 --members members.txt
rendezvous --admit open --listen 127.0.0.1:3478 --stun-listen 127.0.0.1:3479 --dir ./state
rendezvous --listen 192.0.2.1:3478 --stun-listen 192.0.2.1:3479 --alternate 192.0.2.2
rendezvous --public-host 192.0.2.1 --admit key --etcd http://127.0.0.1:2379
rendezvous --check --members members.txt
rendezvous version`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", ":3478", "UDP address of sessions and STUN")
	f.StringVar(&o.stunListen, "stun-listen", ":3479", "second UDP address, for STUN alone; empty: none")
	f.StringVar(&o.alternate, "alternate", "", "second public `ADDRESS` of this host, on which STUN answers at both ports,\nso that agents learn how their NATs map and filter (RFC 5780); --listen and\n--stun-listen then name the first (default: none)")
	f.StringVar(&o.publicHost, "public-host", "", "name or address by which agents reach this host (default: guessed)")
	f.StringVar(&o.dir, "dir", "", "directory of the key (default: $STATE_DIRECTORY, or a place of the user's)")
	f.StringVar(&o.admit, "admit", "members", "whom to serve besides guests with a token: members; key for members of grids alone; or open for everybody")
	f.StringVar(&o.members, "members", "", "file of peer IDs, one to a line")
	f.StringVar(&o.ledger, "ledger", "", "`file` of the ledger (default: ledger.db in --dir; none: no ledger)")
	f.StringSliceVar(&o.etcd, "etcd", nil, "`URL` of an etcd that keeps the ledger instead; may be repeated")
	f.StringSliceVar(&o.grids, "grid", nil, "`GRIDID` that may be set up here without a claim code; may be repeated")
	f.StringVar(&o.metricsListen, "metrics-listen", "127.0.0.1:9478", "HTTP address of /metrics, /healthz and /peers; empty: none")
	f.Var(&o.relayRate, "relay-rate", "most that is relayed for one peer, such as 50Mbit/s; 0: no limit")
	f.Var(&o.guestRate, "guest-rate", "most that is relayed for one guest, both directions; 0: no limit")
	f.Var(&o.guestQuota, "guest-quota", "bytes relayed for one guest, both directions; 0: no limit")
	f.IntVar(&o.maxPeers, "max-peers", 16384, "registered peers at most")
	f.IntVar(&o.maxPerPrefix, "max-peers-per-prefix", 1024, "registered peers of one IPv4 /24 or IPv6 /56 at most")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	f.BoolVar(&o.check, "check", false, "check flags, key and members file, and exit")
	return cmd
}

// validate returns what the flags mean for the server.
func (o *options) validate() (server.Mode, server.Limits, error) {
	mode, err := server.ParseMode(o.admit)
	if err != nil {
		return 0, server.Limits{}, cli.Usagef("--admit "+o.admit, "rendezvous --admit members, --admit key for grids alone, or --admit open to serve everybody", "it is none of members, key and open")
	}
	if mode == server.Key && o.ledger == noLedger && len(o.etcd) == 0 {
		return 0, server.Limits{}, cli.Usagef("--admit key", "leave out --ledger none", "without a ledger there are no grids whose members could be served")
	}
	if mode != server.Members && o.members != "" {
		return 0, server.Limits{}, cli.Usagef("--members", "leave out --members or --admit "+o.admit, "it has no effect with --admit %s", o.admit)
	}
	if o.maxPeers < 1 || o.maxPerPrefix < 1 {
		return 0, server.Limits{}, cli.Usagef("--max-peers", "rendezvous --help", "limits are at least 1")
	}
	unlimited := func(v int64) int64 {
		if v == 0 {
			return -1
		}
		return v
	}
	return mode, server.Limits{
		Registrations:          o.maxPeers,
		RegistrationsPerPrefix: o.maxPerPrefix,
		RelayRate:              int64(o.relayRate),
		GuestRate:              unlimited(int64(o.guestRate)),
		GuestQuota:             unlimited(int64(o.guestQuota)),
	}, nil
}

// explain gives the errors of our libraries their place in the exit codes.
func explain(err error) *cli.Error {
	var e rendezvous.Explained
	if errors.As(err, &e) {
		return &cli.Error{Object: e.Object(), Cause: e.Cause(), Next: e.Next(), Code: cli.ExitUsage, Err: err}
	}
	return nil
}

// listenError names the address that could not be bound, and why.
func listenError(flag, network, address string, err error) *cli.Error {
	e := &cli.Error{Object: network + " " + address, Cause: err.Error(), Next: "rendezvous " + flag + " ADDRESS:PORT", Err: err}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		e.Cause = op.Err.Error()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		proto := "u"
		if strings.HasPrefix(network, "tcp") {
			proto = "t"
		}
		e.Cause = "the port is already taken by another program"
		e.Next = "find it with: ss -ln" + proto + "p; or choose another port with " + flag
	case errors.Is(err, syscall.EACCES):
		e.Cause = "this user may not open that port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Cause = "this computer does not have that address"
		e.Next = "see its addresses: ip address"
	}
	return e
}
