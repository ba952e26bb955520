package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/sdnotify"
	"github.com/instantgrid/instantgrid/overlay"
)

// An agent is what grid up runs: a node, and what the parts of its settings
// have added.
type agent struct {
	cmd     *cobra.Command
	ctx     context.Context // ends when the agent is to stop
	stop    context.CancelFunc
	dir     string
	node    *overlay.Node
	log     *slog.Logger
	level   *slog.LevelVar
	ring    *logRing
	events  *eventLog
	stored  func() (storeStatusAnswer, bool) // false: no store is open
	control *controlServer                   // takes more requests until it serves
	doc     *upDocument                      // what announce prints
	changes *journal.Journal

	services *serviceHost

	running sync.WaitGroup // what ends with ctx
	closers []func()       // called last to first

	configuration *configuration
	reloading     sync.Mutex // guards what follows
	settings      *settings
}

// onClose has f called when the agent ends, after the node has ended.
func (a *agent) onClose(f func()) { a.closers = append(a.closers, f) }

// startAgent starts the node and the parts. The caller has taken the identity
// in dir.
func startAgent(ctx context.Context, cmd *cobra.Command, o *options, c *configuration, s *settings, dir, address string) (*agent, error) {
	a := &agent{
		cmd: cmd, dir: dir, level: new(slog.LevelVar), ring: new(logRing), configuration: c, settings: s,
		doc: &upDocument{Control: filepath.Join(dir, socketFile), Config: c.fromFile},
	}
	a.ctx, a.stop = context.WithCancel(ctx)
	if err := a.start(o, address); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *agent) start(o *options, address string) (err error) {
	if err := a.settings.log.apply(a); err != nil {
		return err
	}
	a.log = a.settings.log.newLogger(a.cmd, a.level, a.ring)
	if a.changes, err = openJournal(a.dir, a.log); err != nil {
		return err
	}
	a.onClose(func() { closeJournal(a.changes, a.log) })
	trace, endTrace, err := o.beginTrace(a.cmd)
	if err != nil {
		return err
	}
	a.onClose(endTrace)
	cfg := overlay.Config{Dir: a.dir, Rendezvous: address, NoDiscovery: o.noDiscovery, NoPortMapping: o.noPortMapping, Trace: trace, Logger: a.log}
	for _, p := range a.settings.parts {
		if p, ok := p.(configurer); ok {
			if err := p.configure(a, &cfg); err != nil {
				return err
			}
		}
	}
	if a.node, err = overlay.Start(a.ctx, cfg); err != nil {
		return err
	}
	a.control = newControl(a.node)
	a.services = &serviceHost{node: a.node, changes: journaled{a.changes}}
	serveServices(a.control.mux, a.services)
	a.control.describe(func(s *agentStatus) { s.Services = a.services.status() })
	a.serveAgent()
	for _, p := range a.settings.parts {
		if err := p.apply(a); err != nil {
			return err
		}
	}
	return a.control.serve(a.ctx, a.dir)
}

// run waits until the agent is to stop, reloads when it is told to, and tells
// the service manager how it is doing.
func (a *agent) run() {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var alive <-chan time.Time
	if interval := sdnotify.WatchdogInterval(); interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		alive = ticker.C
	}
	a.tell(sdnotify.Ready)
	for {
		select {
		case <-a.ctx.Done():
			a.log.Info("stopping")
			a.tell(sdnotify.Stopping)
			return
		case <-hangup:
			a.tell(sdnotify.Reloading)
			_, _ = a.reload() // which logs what came of it
			a.tell(sdnotify.Ready)
		case <-alive:
			a.node.Status() // a node that is stuck does not come back from here
			a.tell(sdnotify.Watchdog)
		}
	}
}

// tell sends a message to the service manager.
func (a *agent) tell(message string) {
	if err := sdnotify.Send(message); err != nil {
		a.log.Warn("the service manager is not told", "message", message, "err", err)
	}
}

// close ends everything: the control socket first, so that nobody asks an agent
// without a node.
func (a *agent) close() {
	a.stop()
	if a.control != nil {
		a.control.Close()
	}
	if a.node != nil {
		a.node.Close()
	}
	a.running.Wait()
	for _, f := range slices.Backward(a.closers) {
		f()
	}
}

// reloadDocument is "instantgrid/reload/1".
type reloadDocument struct {
	File    string   `json:"file"`    // that was read; empty: none
	Changed []string `json:"changed"` // keys that have taken effect
	Restart []string `json:"restart"` // keys that differ, and take effect with a restart
}

// reload reads the settings again. What is wrong with them changes nothing.
func (a *agent) reload() (reloadDocument, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	doc := reloadDocument{Changed: []string{}, Restart: []string{}}
	fresh, err := a.configuration.read(a.dir)
	if err != nil {
		a.log.Error("settings not read; those before stay", "err", err)
		return doc, err
	}
	doc.File = a.configuration.fromFile
	before := newSettings()
	config.Copy(before.sections, a.settings.sections)
	changed, restart := config.Reload(a.settings.sections, fresh.sections)
	if err := a.applyChanged(changed); err != nil {
		config.Copy(a.settings.sections, before.sections)
		if again := a.applyChanged(changed); again != nil {
			err = errors.Join(err, again)
		}
		a.log.Error("settings not applied; those before stay", "err", err)
		return doc, err
	}
	for i := range a.settings.sections {
		doc.Changed = append(doc.Changed, changed[a.settings.sections[i].Name]...)
	}
	doc.Restart = append(doc.Restart, restart...)
	a.log.Info("settings read", "file", doc.File, "changed", doc.Changed, "restart", doc.Restart)
	return doc, nil
}

// applyChanged applies the parts with changed keys.
func (a *agent) applyChanged(changed map[string][]string) error {
	for i, p := range a.settings.parts {
		if len(changed[a.settings.sections[i].Name]) == 0 {
			continue
		}
		if err := p.apply(a); err != nil {
			return err
		}
	}
	return nil
}
