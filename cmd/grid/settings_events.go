package main

import (
	"fmt"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// eventsSettings say how much of what happens is kept.
type eventsSettings struct{ keep int }

func defaultEvents() *eventsSettings { return &eventsSettings{keep: 1000} }

func (e *eventsSettings) section() config.Section {
	return config.Section{
		Name: "events",
		Doc:  "What grid events shows.",
		Keys: []config.Key{{
			Name: "keep", Value: &e.keep,
			Doc:   "How many of the newest events are kept in memory, from 1 to 100000.",
			Check: func() error { return inRange(e.keep, 1, 100_000) },
		}},
	}
}

func (e *eventsSettings) apply(a *agent) error {
	a.events = newEventLog(e.keep)
	events := a.node.Events(a.ctx)
	a.running.Go(func() {
		for event := range events {
			a.events.add(event)
		}
	})
	serveEvents(a.control, a.events)
	return nil
}

func inRange(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%d is not from %d to %d", n, least, most)
	}
	return nil
}
