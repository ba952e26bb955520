package main

import (
	"fmt"
	"os"

	"github.com/instantgrid/instantgrid/netsim"
)

// A capture is a file of packets. Nil captures nothing.
type capture struct {
	file *os.File
	w    *netsim.PcapWriter
}

// newCapture begins a capture; no name means none.
func newCapture(name string) (*capture, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("capture packets: %w", err)
	}
	return &capture{f, netsim.NewPcapWriter(f)}, nil
}

func (c *capture) see(e netsim.TraceEvent) {
	if c != nil {
		c.w.Trace(e)
	}
}

func (c *capture) close() error {
	if c == nil {
		return nil
	}
	err := c.w.Flush()
	if closeErr := c.file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("capture packets: %w", err)
	}
	return nil
}
