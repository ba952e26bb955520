package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Each connection begins with one byte that says what it measures.
const (
	opEcho = 'E' // the server returns what it reads: ping and set-up
	opBulk = 'B' // the server reads to the end, then answers with a bulkReport
)

const (
	pingSize    = 64
	writeSize   = 64 << 10
	maxConns    = 64
	setupLimit  = 10 * time.Second // for a connection's first byte
	quietLimit  = 30 * time.Second // for each read and write after it
	lingerLimit = 5 * time.Second  // for the dialer to close first
)

// A bulkReport is what the receiver measured, between the first and the last
// byte: one line of JSON at the end of a bulk connection.
type bulkReport struct {
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"` // of the whole receiving process
}

// serve answers one connection to its end.
func serve(c conn) error {
	defer c.Close()
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

func serveBulk(c conn) error {
	buf := make([]byte, writeSize)
	var report bulkReport
	var first, last time.Time
	var cpu float64
	var extended time.Time
	for {
		n, err := c.Read(buf)
		if n > 0 {
			last = time.Now()
			if first.IsZero() {
				first, cpu = last, processCPU()
			} else {
				report.Bytes += int64(n) // the first read starts the clock
			}
			if last.Sub(extended) > time.Second {
				c.SetDeadline(last.Add(quietLimit))
				extended = last
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	report.Seconds = last.Sub(first).Seconds()
	report.CPUSeconds = processCPU() - cpu
	line, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return err
	}
	return c.CloseWrite()
}

// A bulk is one measured transfer.
type bulk struct {
	bitsPerSecond float64
	cpuPerGB      float64 // CPU-seconds of both ends per 10^9 bytes
}

// measureBulk sends for the given time, or exactly size bytes when size is
// positive.
func measureBulk(ctx context.Context, d dialer, send time.Duration, size int64) (bulk, error) {
	c, err := d.Dial(ctx)
	if err != nil {
		return bulk{}, fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()

	block := make([]byte, writeSize)
	for i := range block {
		block[i] = byte(i * 31)
	}
	c.SetDeadline(time.Now().Add(send + quietLimit))
	if _, err := c.Write([]byte{opBulk}); err != nil {
		return bulk{}, fmt.Errorf("send: %w", err)
	}
	cpu := processCPU()
	start := time.Now()
	end := start.Add(send)
	extended := start
	for sent := int64(0); ; {
		b := block
		if size > 0 {
			if left := size - sent; left < int64(len(b)) {
				b = b[:left]
			}
			if len(b) == 0 {
				break
			}
		} else if !time.Now().Before(end) {
			break
		}
		n, err := c.Write(b)
		sent += int64(n)
		if err != nil {
			return bulk{}, fmt.Errorf("send: %w", err)
		}
		if now := time.Now(); now.Sub(extended) > time.Second {
			c.SetDeadline(now.Add(quietLimit))
			extended = now
		}
	}
	if err := c.CloseWrite(); err != nil {
		return bulk{}, fmt.Errorf("send: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadBytes('\n')
	if err != nil {
		return bulk{}, fmt.Errorf("receive report: %w", err)
	}
	cpu = processCPU() - cpu
	var report bulkReport
	if err := json.Unmarshal(line, &report); err != nil {
		return bulk{}, fmt.Errorf("receive report: %w", err)
	}
	if report.Bytes <= 0 || report.Seconds <= 0 {
		return bulk{}, fmt.Errorf("receiver counted %d bytes in %g s: send for longer", report.Bytes, report.Seconds)
	}
	return bulk{
		bitsPerSecond: float64(report.Bytes) * 8 / report.Seconds,
		cpuPerGB:      (cpu + report.CPUSeconds) / (float64(report.Bytes) / 1e9),
	}, nil
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
