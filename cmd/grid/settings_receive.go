package main

import (
	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// receiveSettings say whether the agent stores files that are sent to it.
type receiveSettings struct {
	directory string
	atOnce    int
}

func defaultReceive() *receiveSettings { return &receiveSettings{atOnce: 8} }

func (r *receiveSettings) section() config.Section {
	return config.Section{
		Name: "receive",
		Doc:  "Files that allowed peers send.",
		Keys: []config.Key{
			{
				Name: "directory", Value: &r.directory,
				Doc:  "Where they are stored. Empty: none are taken.",
				Flag: "receive", Usage: "store files that allowed peers send in this `directory`",
				Check: r.checkDirectory,
			},
			{
				Name: "at_once", Value: &r.atOnce,
				Doc:   "How many are taken at once, from 1 to 1000.",
				Check: func() error { return inRange(r.atOnce, 1, 1000) },
			},
		},
	}
}

func (r *receiveSettings) checkDirectory() error {
	if r.directory == "" {
		return nil
	}
	return recvFlags{output: r.directory}.checkOutput()
}

func (r *receiveSettings) apply(a *agent) error {
	if r.directory == "" {
		return nil
	}
	ln, err := a.node.Listen("tcp", ":"+portText(portDeliver))
	if err != nil {
		return err
	}
	a.running.Go(func() { receiveAll(a.ctx, ln, r.directory, r.atOnce, a.log) })
	a.doc.Receive = r.directory
	return nil
}
