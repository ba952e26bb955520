package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Each connection begins with one byte that says what it measures.
const (
	opEcho   = 'E' // the server returns what it reads: ping and set-up
	opBulk   = 'B' // a bulkRequest follows; the server reads, then answers with a bulkReport
	opIdle   = 'I' // the server answers with one byte and keeps the connection
	opMemory = 'M' // the server answers with a memoryReport
	opCPU    = 'C' // the same, and only the processor time is measured
)

const (
	pingSize    = 64
	writeSize   = 64 << 10
	maxConns    = 64
	setupLimit  = 10 * time.Second // for a connection's first byte
	quietLimit  = 30 * time.Second // for each read and write after it
	lingerLimit = 5 * time.Second  // for the dialer to close first
	reportLimit = 1 << 20          // bytes of a report
)

// errKept reports a connection that stays open after its server function.
var errKept = errors.New("connection kept")

// serve answers one connection to its end. After errKept the caller has the
// connection and closes it.
func serve(c conn) error {
	err := serveOperation(c)
	if err != errKept {
		c.Close()
	}
	return err
}

func serveOperation(c conn) error {
	c.SetDeadline(time.Now().Add(setupLimit))
	var op [1]byte
	if _, err := io.ReadFull(c, op[:]); err != nil {
		return err
	}
	switch op[0] {
	case opEcho:
		return serveEcho(c)
	case opBulk:
		return serveBulk(c)
	case opIdle:
		return serveIdle(c)
	case opMemory:
		return serveMemory(c)
	case opCPU:
		return serveCPU(c)
	}
	return fmt.Errorf("unknown operation %q", op[0])
}

func serveEcho(c conn) error {
	buf := make([]byte, pingSize)
	for {
		c.SetDeadline(time.Now().Add(quietLimit))
		n, err := c.Read(buf)
		if _, werr := c.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return c.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// measurePing returns the round-trip times of count messages of 64 bytes, one
// at a time on one connection, after some that warm it up.
func measurePing(ctx context.Context, d dialer, count int) ([]time.Duration, error) {
	c, err := d.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	c.SetDeadline(time.Now().Add(quietLimit))
	if _, err := c.Write([]byte{opEcho}); err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	const warmUp = 50
	message, answer := make([]byte, pingSize), make([]byte, pingSize)
	times := make([]time.Duration, 0, count)
	for i := range warmUp + count {
		start := time.Now()
		if _, err := c.Write(message); err != nil {
			return nil, fmt.Errorf("ping %d: %w", i, err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return nil, fmt.Errorf("ping %d: %w", i, err)
		}
		if i >= warmUp {
			times = append(times, time.Since(start))
		}
	}
	return times, nil
}

// measureSetup returns the times from dial to the first echoed byte, each on a
// fresh connection with a whole handshake.
func measureSetup(ctx context.Context, d dialer, count int) ([]time.Duration, error) {
	times := make([]time.Duration, 0, count)
	for i := range count {
		took, err := setupOnce(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("set-up %d: %w", i, err)
		}
		times = append(times, took)
	}
	return times, nil
}

func setupOnce(ctx context.Context, d dialer) (time.Duration, error) {
	start := time.Now()
	c, err := d.Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(start.Add(setupLimit))
	var b [1]byte
	if _, err := c.Write([]byte{opEcho, 0}); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
