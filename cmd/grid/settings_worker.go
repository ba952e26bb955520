package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// workerSettings are a program that the agent offers as a function, as grid
// worker does (docs/rpc.md).
type workerSettings struct {
	exec, name   string
	args         []string
	in, out, env []string
	slots        int
	port         uint16
	time         time.Duration
	memory, disk string
}

func defaultWorker() *workerSettings {
	return &workerSettings{port: functionPort, time: time.Hour, disk: "1G"}
}

func (w *workerSettings) section() config.Section {
	return config.Section{
		Name: "worker",
		Doc:  "A program that members whom the policy lets in may run here as a function (docs/rpc.md). It runs as the user of the agent.",
		Keys: []config.Key{
			{Name: "exec", Value: &w.exec, Doc: "The program. Empty: none, and there is no worker."},
			{Name: "args", Value: &w.args, Doc: "Its arguments."},
			{Name: "name", Value: &w.name, Doc: "The function's name. Empty: that of the program."},
			{Name: "in", Value: &w.in, Doc: "Files that a call brings. Empty: its standard input."},
			{Name: "out", Value: &w.out, Doc: "Files that are the result. Empty: its standard output."},
			{Name: "env", Value: &w.env, Doc: "NAME=VALUE that it finds in its environment."},
			{Name: "slots", Value: &w.slots, Doc: "Calls at once, up to 65535. 0: one for each processor.", Check: func() error { return inRange(w.slots, 0, 65535) }},
			{Name: "port", Value: &w.port, Doc: "The port of the node.", Check: func() error { return inRange(int(w.port), 1, 65535) }},
			{Name: "time", Value: &w.time, Doc: "The longest time for a call.", Check: func() error {
				if w.time <= 0 {
					return fmt.Errorf("%v is no time", w.time)
				}
				return nil
			}},
			{Name: "memory", Value: &w.memory, Doc: "The most address space of a process, as 1G. Empty: no bound.", Check: func() error { return checkSize(w.memory) }},
			{Name: "disk", Value: &w.disk, Doc: "The most that the directory of a call may hold.", Check: func() error { return checkSize(w.disk) }},
		},
	}
}

func checkSize(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseSize(text)
	return err
}

// spec returns the worker that the settings describe.
func (w *workerSettings) spec() (s *workerSpec, err error) {
	s = &workerSpec{name: w.name, slots: w.slots, port: w.port}
	s.Path, s.Args, s.In, s.Out, s.Env, s.Time = w.exec, w.args, w.in, w.out, w.env, w.time
	if w.memory != "" {
		if s.Memory, err = parseSize(w.memory); err != nil {
			return nil, err
		}
	}
	if w.disk != "" {
		s.Disk, err = parseSize(w.disk)
	}
	return s, err
}

func (w *workerSettings) apply(a *agent) error {
	if w.exec == "" {
		return nil
	}
	spec, err := w.spec()
	if err != nil {
		return err
	}
	local, path, err := listenLocal(a.dir, w.port)
	if err != nil {
		return err
	}
	a.onClose(func() { removeLocal(a.dir, path, w.port) })
	worker, err := spec.start(a.dir, a.log)
	if err != nil {
		local.Close()
		return err
	}
	a.control.describe(func(s *agentStatus) {
		c := worker.Counters()
		s.functions().Worker = &c
	})
	a.onClose(func() {
		worker.Close()
		os.Remove(spec.Dir)
	})
	ln, err := a.node.Listen("tcp", ":"+strconv.Itoa(int(w.port)))
	if err != nil {
		local.Close()
		return listenError("port "+strconv.Itoa(int(w.port)), err)
	}
	a.log.Info("service", "does", fmt.Sprintf("function %s on port %d", spec.function(), w.port))
	a.running.Go(func() { _ = worker.Serve(local) })
	a.running.Go(func() { _ = worker.Serve(ln) })
	// Connections end before the node does, which would wait for them.
	a.running.Go(func() {
		<-a.ctx.Done()
		worker.Close()
	})
	return nil
}
