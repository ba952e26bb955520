package durable

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A Ledger remembers on disk what this node keeps for whom: it is a
// swarm.Keeper, and the Duties of a Guard. All methods may be called
// concurrently.
//
// It is a file of lines, "+ OBJECT CHUNK" and "- OBJECT CHUNK", each written and
// synced before it counts. A last line that was cut off is dropped.
type Ledger struct {
	limit int
	pins  chunk.Pinner // may be nil

	mu      sync.Mutex
	file    *os.File
	objects map[[32]byte]map[chunk.ID]struct{}
	kept    int
	denied  uint64
}

// OpenLedger reads the ledger of path, which need not exist. It keeps at most
// limit chunks, of at most a mebibyte each; zero keeps none. What it keeps it
// pins in holdings, if these are a chunk.Pinner.
func OpenLedger(path string, limit int, holdings chunk.Holdings) (*Ledger, error) {
	l := &Ledger{limit: limit, objects: make(map[[32]byte]map[chunk.ID]struct{})}
	l.pins, _ = holdings.(chunk.Pinner)
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("durable: read the ledger: %w", err)
	}
	l.replay(b)
	if err := l.rewrite(path); err != nil {
		return nil, fmt.Errorf("durable: write the ledger: %w", err)
	}
	for _, chunks := range l.objects {
		for id := range chunks {
			if l.pins != nil {
				l.pins.Pin(id)
			}
		}
	}
	return l, nil
}

// replay applies the lines of b. What is no line is skipped.
func (l *Ledger) replay(b []byte) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line := sc.Bytes()
		if len(line) != 2+64+1+64 || line[1] != ' ' || line[66] != ' ' {
			continue
		}
		var object [32]byte
		var id chunk.ID
		if _, err := hex.Decode(object[:], line[2:66]); err != nil {
			continue
		}
		if _, err := hex.Decode(id[:], line[67:]); err != nil {
			continue
		}
		switch line[0] {
		case '+':
			l.add(object, id)
		case '-':
			l.remove(object, id)
		}
	}
}

func (l *Ledger) add(object [32]byte, id chunk.ID) bool {
	chunks := l.objects[object]
	if chunks == nil {
		chunks = make(map[chunk.ID]struct{})
		l.objects[object] = chunks
	}
	if _, is := chunks[id]; is {
		return false
	}
	chunks[id] = struct{}{}
	l.kept++
	return true
}

func (l *Ledger) remove(object [32]byte, id chunk.ID) bool {
	if _, is := l.objects[object][id]; !is {
		return false
	}
	delete(l.objects[object], id)
	l.kept--
	if len(l.objects[object]) == 0 {
		delete(l.objects, object)
	}
	return true
}

// rewrite puts a file of what is kept now in the place of the old one, and
// opens it.
func (l *Ledger) rewrite(path string) error {
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for object, chunks := range l.objects {
		for id := range chunks {
			w.Write(ledgerLine('+', object, id))
		}
	}
	err = w.Flush()
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err == nil {
		if d, openErr := os.Open(filepath.Dir(path)); openErr == nil {
			d.Sync() // not every system can
			d.Close()
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	l.file = f
	return nil
}

func ledgerLine(op byte, object [32]byte, id chunk.ID) []byte {
	return fmt.Appendf(nil, "%c %x %x\n", op, object, id[:])
}

// Close closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// Admit implements swarm.Keeper.
func (l *Ledger) Admit(member string, object [32]byte, id chunk.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.objects[object][id]; is || l.kept < l.limit {
		return true
	}
	l.denied++
	return false
}

// Keep implements swarm.Keeper.
func (l *Ledger) Keep(member string, object [32]byte, id chunk.ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.objects[object][id]; is {
		return nil
	}
	if err := l.append('+', object, id); err != nil {
		return err
	}
	l.add(object, id)
	if l.pins != nil {
		l.pins.Pin(id)
	}
	return nil
}

// Drop implements swarm.Keeper.
func (l *Ledger) Drop(member string, object [32]byte, id chunk.ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.objects[object][id]; !is {
		return nil
	}
	if err := l.append('-', object, id); err != nil {
		return err
	}
	l.remove(object, id)
	if l.pins != nil {
		l.pins.Unpin(id)
	}
	return nil
}

func (l *Ledger) append(op byte, object [32]byte, id chunk.ID) error {
	if _, err := l.file.Write(ledgerLine(op, object, id)); err != nil {
		return fmt.Errorf("durable: write the ledger: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("durable: write the ledger: %w", err)
	}
	return nil
}

// Objects returns the objects of which something is kept.
func (l *Ledger) Objects() [][32]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([][32]byte, 0, len(l.objects))
	for object := range l.objects {
		out = append(out, object)
	}
	slices.SortFunc(out, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// Kept returns how many chunks are kept, and how many were refused for lack of
// room.
func (l *Ledger) Kept() (kept int, denied uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept, l.denied
}
