package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A bulkRequest says what to send. It has either a time or a size.
type bulkRequest struct {
	// For is how long the receiver counts from its first byte on. Zero: until
	// the sender ends.
	For time.Duration
	// Size is how much the sender sends when For is zero.
	Size int64
	// Verify has the receiver compare every byte with what was sent.
	Verify bool
}

const bulkRequestSize = 5 // flags and milliseconds

func appendBulkRequest(b []byte, q bulkRequest) []byte {
	flags := byte(0)
	if q.Verify {
		flags = 1
	}
	return binary.BigEndian.AppendUint32(append(b, flags), uint32(q.For/time.Millisecond))
}

func parseBulkRequest(b []byte) (bulkRequest, error) {
	if len(b) != bulkRequestSize || b[0] > 1 {
		return bulkRequest{}, fmt.Errorf("wrong bulk request %x", b)
	}
	limit := time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond
	if limit > time.Hour {
		return bulkRequest{}, fmt.Errorf("bulk request for %v", limit)
	}
	return bulkRequest{For: limit, Verify: b[0] == 1}, nil
}

// bulkStep is the resolution of throughput over time.
const bulkStep = 50 * time.Millisecond

// A bulkReport is what the receiver measured from its first byte on: one line
// of JSON at the end of a bulk connection.
type bulkReport struct {
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"` // of the whole receiving process
	LongestGap float64 `json:"longest_gap"` // seconds without a byte
	Started    int64   `json:"started"`     // Unix time in ns
	Steps      []int64 `json:"steps"`       // bytes in each bulkStep
	Damaged    bool    `json:"damaged"`     // what arrived is not what was sent
}

// A meter counts what arrives.
type meter struct {
	first, last time.Time
	bytes       int64
	gap         time.Duration
	steps       []int64
}

// count records n bytes that arrived at now. The first call starts the clock
// and counts nothing.
func (m *meter) count(n int, now time.Time) {
	if m.first.IsZero() {
		m.first, m.last = now, now
		return
	}
	m.bytes += int64(n)
	m.gap = max(m.gap, now.Sub(m.last))
	m.last = now
	i := int(now.Sub(m.first) / bulkStep)
	for len(m.steps) <= i {
		m.steps = append(m.steps, 0)
	}
	m.steps[i] += int64(n)
}

// end records the silence until now.
func (m *meter) end(now time.Time) {
	m.gap = max(m.gap, now.Sub(m.last))
	m.last = now
}

func (m *meter) report() bulkReport {
	return bulkReport{
		Bytes:      m.bytes,
		Seconds:    m.last.Sub(m.first).Seconds(),
		LongestGap: m.gap.Seconds(),
		Started:    m.first.UnixNano(),
		Steps:      m.steps,
	}
}

// patternPeriod is prime, so that no block of a transport's that is lost or
// repeated leaves the pattern in step.
const patternPeriod = 1_000_003

// pattern is what a verified transfer sends, over and over, with one block
// more, so that a block can begin anywhere.
var pattern = sync.OnceValue(func() []byte {
	b := make([]byte, patternPeriod+writeSize)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range b[:patternPeriod] {
		b[i] = byte(rng.Uint32())
	}
	copy(b[patternPeriod:], b)
	return b
})

// patternAt returns n bytes, at most writeSize, of the pattern from offset on.
func patternAt(offset int64, n int) []byte {
	at := int(offset % patternPeriod)
	return pattern()[at : at+n]
}

func serveBulk(c conn) error {
	var request [bulkRequestSize]byte
	if _, err := io.ReadFull(c, request[:]); err != nil {
		return err
	}
	q, err := parseBulkRequest(request[:])
	if err != nil {
		return err
	}
	buf := make([]byte, writeSize)
	var m meter
	var cpu float64
	var offset int64
	damaged := false
	var extended, limit time.Time
	for {
		n, err := c.Read(buf)
		now := time.Now()
		if n > 0 {
			if m.first.IsZero() {
				cpu = processCPU()
				if q.For > 0 {
					limit = now.Add(q.For)
					c.SetReadDeadline(limit)
				}
			}
			if q.Verify && !damaged {
				damaged = !bytes.Equal(buf[:n], patternAt(offset, n))
			}
			offset += int64(n)
			m.count(n, now)
			if q.For == 0 && now.Sub(extended) > time.Second {
				c.SetDeadline(now.Add(quietLimit))
				extended = now
			}
		}
		if err == io.EOF || !limit.IsZero() && !now.Before(limit) {
			break
		}
		if err != nil {
			if timedOut(err) && !limit.IsZero() {
				continue // a deadline that came a little early
			}
			return err
		}
	}
	if !limit.IsZero() {
		m.end(time.Now())
	}
	report := m.report()
	report.CPUSeconds = processCPU() - cpu
	report.Damaged = damaged
	c.SetDeadline(time.Now().Add(quietLimit))
	if err := writeLine(c, report); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	// The sender goes on until it has read the report.
	c.SetDeadline(time.Now().Add(lingerLimit))
	for !limit.IsZero() {
		if _, err := c.Read(buf); err != nil {
			break
		}
	}
	return nil
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func writeLine(c conn, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(line, '\n'))
	return err
}

func readLine(c conn, v any) error {
	line, err := bufio.NewReader(io.LimitReader(c, reportLimit)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("receive report: %w", err)
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("receive report: %w", err)
	}
	return nil
}

// A bulk is one measured transfer.
type bulk struct {
	BitsPerSecond float64 `json:"bits_per_second"`
	CPUPerGB      float64 `json:"cpu_per_gb"` // CPU-seconds of both ends per 10^9 bytes
	Report        bulkReport
	note          string // what the sender's transport says of the transfer
}

// A commentator can say what a reader should know of a transfer, or nothing.
type commentator interface{ comment() string }

// An aborter can drop what has been written and not sent.
type aborter interface{ abort() }

// measureBulk makes one transfer.
func measureBulk(ctx context.Context, d dialer, q bulkRequest) (bulk, error) {
	c, err := d.Dial(ctx)
	if err != nil {
		return bulk{}, fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()

	c.SetDeadline(time.Now().Add(q.For + quietLimit))
	if _, err := c.Write(appendBulkRequest([]byte{opBulk}, q)); err != nil {
		return bulk{}, fmt.Errorf("send: %w", err)
	}
	cpu := processCPU()
	var report bulkReport
	var done atomic.Bool
	received := make(chan error, 1)
	go func() {
		err := readLine(c, &report)
		cpu = processCPU() - cpu
		done.Store(true)
		c.SetWriteDeadline(time.Unix(1, 0))
		received <- err
	}()
	sent, err := sendBulk(c, q, &done)
	if err == nil && q.For == 0 {
		err = c.CloseWrite()
	}
	if err != nil && !done.Load() {
		c.SetDeadline(time.Unix(1, 0))
		<-received
		return bulk{}, fmt.Errorf("send: %w", err)
	}
	if err := <-received; err != nil {
		return bulk{}, err
	}
	note := ""
	if cm, ok := c.(commentator); ok {
		note = cm.comment()
	}
	if a, ok := c.(aborter); ok {
		a.abort()
	}
	if report.Bytes <= 0 || report.Seconds <= 0 {
		return bulk{}, fmt.Errorf("receiver counted %d bytes in %g s: send for longer", report.Bytes, report.Seconds)
	}
	if report.Damaged || report.Bytes > sent {
		return bulk{}, errDamaged
	}
	return bulk{
		BitsPerSecond: float64(report.Bytes) * 8 / report.Seconds,
		CPUPerGB:      (cpu + report.CPUSeconds) / (float64(report.Bytes) / 1e9),
		Report:        report,
		note:          note,
	}, nil
}

// errDamaged reports bytes that are not those that were sent.
var errDamaged = errors.New("what arrived is not what was sent")

// sendBulk writes until the size is sent, or done is set where there is none.
func sendBulk(c conn, q bulkRequest, done *atomic.Bool) (sent int64, err error) {
	extended := time.Now()
	for !done.Load() {
		size := writeSize
		if q.For == 0 {
			size = int(min(int64(size), q.Size-sent))
			if size == 0 {
				return sent, nil
			}
		}
		from := int64(0) // a block that stays in the cache
		if q.Verify {
			from = sent
		}
		n, err := c.Write(patternAt(from, size))
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		if now := time.Now(); q.For == 0 && now.Sub(extended) > time.Second {
			c.SetDeadline(now.Add(quietLimit))
			extended = now
		}
	}
	return sent, nil
}
