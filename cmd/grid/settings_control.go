package main

import (
	"fmt"
	"os/user"
	"strconv"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// controlSettings say who may talk to the agent.
type controlSettings struct{ group string }

func defaultControl() *controlSettings { return new(controlSettings) }

func (c *controlSettings) section() config.Section {
	return config.Section{
		Name: "control",
		Doc:  "The socket control.sock in the state directory, over which other grid commands talk to the agent.",
		Keys: []config.Key{{
			Name: "group", Value: &c.group,
			Doc:   "The group, by name or number, whose members may talk to the agent as well, and so may stop it and see all it knows. The state directory is then open to them, the files in it are not. Empty: only this user.",
			Check: func() error { _, err := groupID(c.group); return err },
		}},
	}
}

func (c *controlSettings) apply(a *agent) error {
	gid, err := groupID(c.group)
	a.control.group = gid
	return err
}

// groupID returns the number of a group, -1 for none.
func groupID(text string) (int, error) {
	if text == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(text)
	if err != nil {
		return -1, fmt.Errorf("there is no group %q on this computer", text)
	}
	return strconv.Atoi(g.Gid)
}
