package overlay

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// CheckState reads what [Start] would read for cfg, and the grid key beside it,
// and returns what is wrong with each file: a [*StateError], a [*PolicyError]
// or an error of cfg.Rendezvous. It makes and changes nothing, and may be
// called while a node runs. Those that are Harmless are no obstacle to Start.
func CheckState(cfg Config) (problems []error) {
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	dir := directory(cfg.Dir)
	if dir != "" {
		if info, err := os.Stat(string(dir)); errors.Is(err, fs.ErrNotExist) {
			dir = ""
		} else if err == nil && !info.IsDir() {
			return append(problems, &StateError{File: string(dir), Err: errNotDirectory})
		} else if err == nil {
			add(dir.closed(info))
		}
	}
	id := cfg.Identity
	if id == nil && dir != "" {
		var err error
		id, err = dir.readIdentity()
		add(err)
	}
	_, err := loadAllowList(dir, cfg.Allow)
	add(err)
	remembered, err := loadRemembered(dir, time.Now())
	add(err)
	if err == nil {
		add(remembered.damage)
	}
	add(checkInvitations(dir))
	var self ri2n.PeerID // without a key nothing is verified, and still parsed
	if id != nil {
		self = id.PeerID()
	}
	grid, err := loadGrid(dir, self, time.Now())
	add(err)
	if err == nil {
		add(grid.damage)
	}
	if _, err := gridKey(dir, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		add(err)
	}
	policies := policyKeeper{file: policyPath(cfg)}
	_, err = policies.look()
	add(err)
	_, err = findHome(dir, cfg)
	add(err)
	return problems
}
