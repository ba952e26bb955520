// Package hostdns makes a resolver of ours part of this computer's name
// resolution, so that every program finds names of the grid, and takes that back.
//
// Where systemd-resolved answers, names below the domain go to our resolver by a
// setting of one network interface, and nothing else changes. Elsewhere our
// resolver becomes the one of /etc/resolv.conf, and has to ask those of before
// for other names ([Upstream]).
//
//	h, err := hostdns.Install(hostdns.Config{Resolver: at, Domain: "grid", Changes: changes})
//	defer h.Undo()
//
// Each change goes through Changes, which writes it down first; [Kinds] undo
// those of a process that has died. Nothing here watches what others do to the
// same file or interface: what they have changed since is left to them.
package hostdns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
)

const (
	// File is where programs find their resolvers.
	File = "/etc/resolv.conf"
	// stub is where systemd-resolved answers, and uplinkFile has the resolvers
	// that it asks.
	stub       = "127.0.0.53"
	uplinkFile = "/run/systemd/resolve/resolv.conf"
	// toolTime bounds a call of resolvectl.
	toolTime = 10 * time.Second

	kindLink = "resolved-link"
)

// Changes makes changes so that they can be undone after a crash; what Make
// returns undoes one, and may be called twice.
type Changes interface {
	Make(kind string, data any, make func() error) (undo func() error, err error)
}

// Config says what to install. All but Link must be set.
type Config struct {
	Resolver netip.AddrPort // where ours answers
	Domain   string         // of our names, without dots: "grid"
	Changes  Changes

	// Link is the network interface that systemd-resolved is told about. Empty:
	// there is none, and where it answers, Install fails.
	Link string
}

// Installed is a resolver that is in use.
type Installed struct {
	how  string
	undo func() error
}

// String says how it is in use: "systemd-resolved, interface grid0", or the file.
func (i *Installed) String() string { return i.how }

// Undo takes the change back. It may be called twice.
func (i *Installed) Undo() error { return i.undo() }

// An Error is a computer whose name resolution cannot be changed.
type Error struct {
	What  string // the program, file or address
	Why   string
	ToDo  string
	Inner error // nil: none
}

func (e *Error) Error() string { return "hostdns: " + e.Object() + ": " + e.Cause() }
func (e *Error) Unwrap() error { return e.Inner }

// Object names what is in the way.
func (e *Error) Object() string { return e.What }

// Cause says why.
func (e *Error) Cause() string {
	if e.Inner != nil {
		return e.Why + ": " + e.Inner.Error()
	}
	return e.Why
}

// Next says what to do.
func (e *Error) Next() string { return e.ToDo }

// servers returns the resolvers that a file names, in order. One that is not there names none.
func servers(file string) ([]string, error) {
	c, err := dns.ClientConfigFromFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.Servers, nil
}

// Resolved reports whether systemd-resolved answers this computer's programs.
func Resolved() bool {
	list, err := servers(File)
	return err == nil && len(list) > 0 && list[0] == stub
}

// Upstream returns the resolvers, "HOST:PORT" each, that are asked for names now
// and are none of ours: behind systemd-resolved, those that it asks itself.
// None: there are none, or they are not known on this system.
func Upstream(own netip.AddrPort) (list []string) {
	file := File
	if Resolved() {
		file = uplinkFile
	}
	all, err := servers(file)
	if err != nil {
		return nil
	}
	for _, server := range all {
		if a := net.JoinHostPort(server, "53"); a != own.String() {
			list = append(list, a)
		}
	}
	return list
}

// Install has this computer ask our resolver: for names below the domain, or, in
// place of those that [Upstream] returned before, for all. The error is an
// [*Error] or that of Changes.
func Install(c Config) (*Installed, error) {
	if Resolved() {
		return c.tellResolved()
	}
	return c.replaceFile()
}

// linkChange is what undoing the settings of a link needs.
type linkChange struct {
	Name  string `json:"name"`
	Index int    `json:"index"` // by which it is known to be the same one
}

func (c Config) tellResolved() (*Installed, error) {
	if c.Link == "" {
		return nil, &Error{
			What: "systemd-resolved", Why: "it takes resolvers of single domains for network interfaces alone, and there is none of the grid",
			ToDo: "make one: grid up --tun; or write /etc/systemd/resolved.conf.d/grid.conf yourself (docs/sockets.md)",
		}
	}
	if _, err := exec.LookPath("resolvectl"); err != nil {
		return nil, &Error{What: "resolvectl", Why: "systemd-resolved answers here, and its command is missing", ToDo: "install it: apt-get install systemd-resolved", Inner: err}
	}
	link, err := net.InterfaceByName(c.Link)
	if err != nil {
		return nil, &Error{What: "interface " + c.Link, Why: "it is not there", ToDo: "grid status", Inner: err}
	}
	undo, err := c.Changes.Make(kindLink, linkChange{link.Name, link.Index}, func() error {
		at := c.Resolver.String()
		if c.Resolver.Port() == 53 {
			at = c.Resolver.Addr().String() // which older versions understand as well
		}
		for _, args := range [][]string{
			{"domain", c.Link, "~" + c.Domain},
			{"default-route", c.Link, "no"},
			{"dns", c.Link, at},
		} {
			if err := resolvectl(args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Installed{"systemd-resolved, interface " + c.Link, undo}, nil
}

// resolvectl tells systemd-resolved something.
func resolvectl(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), toolTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput()
	if err != nil {
		return &Error{
			What: "resolvectl " + strings.Join(args, " "), Why: strings.TrimSpace("it failed: " + string(out)),
			ToDo: "see whether systemd-resolved runs: resolvectl status", Inner: err,
		}
	}
	return nil
}

func (c Config) replaceFile() (*Installed, error) {
	if c.Resolver.Port() != 53 {
		return nil, &Error{
			What: c.Resolver.String(), Why: File + " names resolvers at port 53 alone",
			ToDo: "grid up --dns-system without --dns, or with one at port 53: --dns 127.0.0.1:53",
		}
	}
	before, err := os.ReadFile(File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	data, replace, err := journal.Replacement(File, content(c.Resolver.Addr(), before))
	if err != nil {
		return nil, err
	}
	undo, err := c.Changes.Make(journal.KindFile, data, replace)
	if err != nil {
		return nil, err
	}
	return &Installed{File, undo}, nil
}

// content is the file with our resolver in place of those in before; its other
// lines stay.
func content(resolver netip.Addr, before []byte) []byte {
	var b strings.Builder
	b.WriteString("# Written by grid, which asks the resolvers of before for names outside the grid.\n" +
		"# The file of before comes back when grid up ends, or with: grid down\n")
	fmt.Fprintf(&b, "nameserver %v\n", resolver)
	for line := range strings.Lines(string(before)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "search", "domain", "options", "sortlist":
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return []byte(b.String())
}

// Kinds returns the kinds of changes that Install makes, besides those that
// every journal knows, for undoing those of a process that has died.
func Kinds() map[string]journal.Kind {
	return map[string]journal.Kind{kindLink: {UntilReboot: true, Undo: func(data json.RawMessage) error {
		var c linkChange
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		// The settings of a link that has gone are gone with it, and another
		// one of its name has none of ours.
		if link, err := net.InterfaceByName(c.Name); err != nil || link.Index != c.Index {
			return nil
		}
		return resolvectl("revert", c.Name)
	}}}
}
