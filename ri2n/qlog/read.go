package qlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxRecord bounds what Read takes for one record, in bytes.
const maxRecord = 1 << 20

// ErrNotTrace reports a file that does not begin with the header of a trace.
var ErrNotTrace = errors.New("qlog: not a trace of ri2n")

// Read calls each for every event of a trace, in order, and returns its
// header and the number of records that it skipped: those that were cut off,
// are no JSON, or exceed 1 MiB (RFC 7464, section 2.3). It ends with the first
// error of r or of each, and with [ErrNotTrace] when there is no header.
func Read(r io.Reader, each func(Record) error) (h Header, skipped int, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	first := true
	for {
		b, err := readRecord(in)
		if err == io.EOF && len(b) == 0 {
			if first {
				return h, skipped, ErrNotTrace
			}
			return h, skipped, nil
		}
		if err != nil && err != io.EOF {
			return h, skipped, fmt.Errorf("qlog: read trace: %w", err)
		}
		if first {
			if json.Unmarshal(b, &h) != nil || h.FileSchema != fileSchema {
				return h, skipped, ErrNotTrace
			}
			first = false
			continue
		}
		var rec Record
		if !bytes.HasSuffix(b, []byte("\n")) || json.Unmarshal(b, &rec) != nil || rec.Name == "" {
			skipped++
			continue
		}
		if err := each(rec); err != nil {
			return h, skipped, err
		}
	}
}

// readRecord returns what is between two record separators; nothing of what
// exceeds maxRecord but a space, which is no JSON. Empty stretches are passed
// over.
func readRecord(in *bufio.Reader) ([]byte, error) {
	var record []byte
	long := false
	for {
		part, err := in.ReadSlice(recordSeparator)
		whole := err == nil
		if whole {
			part = part[:len(part)-1]
		}
		if long = long || len(record)+len(part) > maxRecord; !long {
			record = append(record, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case long:
			return []byte(" "), err
		case whole && len(bytes.TrimSpace(record)) == 0:
			record = record[:0]
			continue
		}
		return record, err
	}
}
