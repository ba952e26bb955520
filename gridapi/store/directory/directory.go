// Package directory tells members of a grid what the names of the store mean,
// and those who are new the store's key.
//
// A [Directory] asks other members, as store.Directory has it; [Serve] answers
// them. Each exchange is a connection of its own: a request, an answer
// (docs/store-format.md, section 6). Records are passed on as they are; the
// store verifies them.
//
// It needs nothing of its connections but net.Conn and authorizes nobody: the
// listener does. Whoever may connect is given the key.
package directory

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store"
)

const (
	magic   = "IGSD\x01"
	maxBody = 512 // of a request, or of one part of an answer
	maxMany = 64  // parts of an answer

	// exchangeTime bounds one exchange, at both ends.
	exchangeTime = 10 * time.Second
	// atOnce bounds the connections that are served, and the members that are
	// asked, at a time.
	atOnce = 32
)

type request byte

const (
	lookupRequest  request = 1 // body: a name; answered with records
	publishRequest request = 2 // body: a record; answered with nothing
	keyRequest     request = 3 // no body; answered with the key
)

var errMalformed = errors.New("directory: malformed bytes from the other side")

// A refusal is what another member answers instead of parts.
type refusal byte

const (
	accepted refusal = 0
	refused  refusal = 1
)

func (r refusal) Error() string { return "directory: the member refuses" }

func appendRequest(b []byte, r request, body []byte) []byte {
	b = append(append(b, magic...), byte(r))
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// readRequest reads one request.
func readRequest(from io.Reader) (r request, body []byte, err error) {
	var head [len(magic) + 3]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return 0, nil, err
	}
	r = request(head[len(magic)])
	if string(head[:len(magic)]) != magic || r < lookupRequest || r > keyRequest {
		return 0, nil, errMalformed
	}
	body, err = readPart(from, head[len(magic)+1:])
	return r, body, err
}

func readPart(from io.Reader, length []byte) ([]byte, error) {
	n := binary.BigEndian.Uint16(length)
	if n > maxBody {
		return nil, errMalformed
	}
	b := make([]byte, n)
	_, err := io.ReadFull(from, b)
	return b, err
}

func appendAnswer(b []byte, r refusal, parts [][]byte) []byte {
	b = append(b, byte(r), byte(len(parts)))
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

// readAnswer reads one answer. A refusal is an error.
func readAnswer(from io.Reader) (parts [][]byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err
	}
	result, n := refusal(head[0]), head[1]
	if result > refused || n > maxMany || result == refused && n > 0 {
		return nil, errMalformed
	}
	if result == refused {
		return nil, refused
	}
	for range n {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return nil, err
		}
		p, err := readPart(from, head[:])
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// A Source is what is served: a store.
type Source interface {
	Records(name string) ([][]byte, error)
	Learn(record []byte) error
}

// Serve answers those who connect to ln until that is closed, and returns once
// all are answered. Key is what new members are given; nil refuses them. Nil
// logs nothing.
func Serve(ln net.Listener, source Source, key func() (store.Key, bool), log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, atOnce)
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			c.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(exchangeTime))
			if err := serveOne(c, source, key); err != nil {
				log.Debug("a question about names was not answered", "err", err)
			}
		})
	}
}

func serveOne(c net.Conn, source Source, key func() (store.Key, bool)) error {
	r, body, err := readRequest(bufio.NewReaderSize(c, maxBody))
	if err != nil {
		return err
	}
	var parts [][]byte
	result := accepted
	switch r {
	case lookupRequest:
		parts, err = source.Records(string(body))
		parts = parts[:min(len(parts), maxMany)]
	case publishRequest:
		err = source.Learn(body)
	case keyRequest:
		err = refused
		if key != nil {
			if k, ok := key(); ok {
				parts, err = [][]byte{[]byte(k.Encode())}, nil
			}
		}
	}
	if err != nil {
		result, parts = refused, nil
	}
	if _, e := c.Write(appendAnswer(nil, result, parts)); e != nil {
		return e
	}
	return err
}

// A Directory asks the other members. It implements store.Directory.
type Directory struct {
	// Dial connects to what a member serves.
	Dial func(ctx context.Context, member string) (net.Conn, error)
	// Members returns who is there, without ourselves.
	Members func(ctx context.Context) []string
}

// ask sends a request to one member and returns its answer.
func (d *Directory) ask(ctx context.Context, member string, request []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	c, err := d.Dial(ctx, member)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	return readAnswer(bufio.NewReaderSize(c, maxBody))
}

// askAll asks every member, and calls answered with each answer, one at a time.
// It returns an error if none has answered.
func (d *Directory) askAll(ctx context.Context, request []byte, answered func(parts [][]byte)) error {
	var mu sync.Mutex // guards what follows
	var last error
	some := false
	var running sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, member := range d.Members(ctx) {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			parts, err := d.ask(ctx, member, request)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				last = fmt.Errorf("%s: %w", member, err)
				return
			}
			some = true
			answered(parts)
		})
	}
	running.Wait()
	if !some {
		return last
	}
	return nil
}

// Publish implements store.Directory.
func (d *Directory) Publish(ctx context.Context, record []byte) error {
	return d.askAll(ctx, appendRequest(nil, publishRequest, record), func([][]byte) {})
}

// Lookup implements store.Directory.
func (d *Directory) Lookup(ctx context.Context, name string) (records [][]byte, err error) {
	err = d.askAll(ctx, appendRequest(nil, lookupRequest, []byte(name)), func(parts [][]byte) { records = append(records, parts...) })
	return records, err
}

// ErrNoKey reports that no member has the store's key, or gives it to us.
var ErrNoKey = errors.New("directory: no member has the store's key")

// Key asks the members for the store's key. It takes the first that comes; all
// who may serve it are trusted with it, and with what is put.
func (d *Directory) Key(ctx context.Context) (k store.Key, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := false
	_ = d.askAll(ctx, appendRequest(nil, keyRequest, nil), func(parts [][]byte) {
		if found || len(parts) != 1 {
			return
		}
		if got, err := store.ParseKey(string(parts[0])); err == nil {
			k, found = got, true
			cancel()
		}
	})
	if !found {
		return k, ErrNoKey
	}
	return k, nil
}
