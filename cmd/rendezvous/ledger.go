package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/rendezvous/state"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	ledgerFile = "ledger.db" // in the directory of the key
	noLedger   = "none"      // of --ledger
	ledgerTime = 10 * time.Second
)

// openLedger opens the ledger that the flags name, nil for none, with the claim
// code while there is one.
func openLedger(ctx context.Context, o options, mode server.Mode, dir string, id *ri2n.Identity) (l *ledger.Ledger, claim string, closeAll func(), err error) {
	nothing := func() {}
	cfg := ledger.Config{Identity: id, Open: mode == server.Open}
	for _, text := range o.grids {
		grid, err := membership.ParseGridID(text)
		if err != nil {
			return nil, "", nil, cli.Usagef("--grid "+text, "ask the grid's admin for what grid init has printed", "this is not a grid ID of 52 letters and digits")
		}
		cfg.Grids = append(cfg.Grids, grid)
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerTime)
	defer cancel()
	file := o.ledger
	switch {
	case len(o.etcd) > 0 && file != "":
		return nil, "", nil, cli.Usagef("--ledger", "leave out --ledger or --etcd", "the ledger is in a file or in etcd, not in both")
	case len(o.etcd) > 0:
		if cfg.Store, err = state.OpenEtcd(ctx, state.EtcdConfig{Endpoints: o.etcd}); err != nil {
			return nil, "", nil, &cli.Error{Object: "--etcd " + o.etcd[0], Cause: err.Error(), Next: "see whether it runs: etcdctl --endpoints " + o.etcd[0] + " endpoint health", Err: err}
		}
	case file == noLedger:
		return nil, "", nothing, nil
	default:
		if file == "" {
			file = filepath.Join(dir, ledgerFile)
		}
		if cfg.Store, err = state.OpenBolt(file); err != nil {
			return nil, "", nil, &cli.Error{Object: file, Cause: err.Error(), Next: "stop the other rendezvous, or name another file: --ledger FILE", Err: err}
		}
	}
	if l, err = ledger.Open(ctx, cfg); err == nil {
		claim, err = l.Claim(ctx)
	}
	if err != nil {
		cfg.Store.Close()
		return nil, "", nil, &cli.Error{Object: "the ledger", Cause: err.Error(), Next: "restore it from a backup, or move it away: members then join again", Err: err}
	}
	if mode == server.Open {
		claim = "" // nobody needs one
	}
	return l, claim, func() { cfg.Store.Close() }, nil
}
