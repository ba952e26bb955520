package qlog_test

import (
	"crypto/rand"
	"log"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

// A trace of all sessions of an endpoint, for ri2n-bench plot.
func ExampleCreate() {
	id, err := ri2n.NewIdentity(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	trace, err := qlog.Create("sessions.qlog", qlog.Options{Title: "an example"})
	if err != nil {
		log.Fatal(err)
	}
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{Identity: id, Trace: trace.Trace})
	if err != nil {
		log.Fatal(err)
	}
	// ... sessions come and go ...
	endpoint.Close()
	if err := trace.Close(); err != nil {
		log.Fatal(err)
	}
}
