package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A MembersError is a line of a members file that cannot be read.
type MembersError struct {
	File         string
	Line, Column int // from 1
	Err          error
}

func (e *MembersError) Error() string {
	return fmt.Sprintf("server: %s: %s", e.Object(), e.Cause())
}

// Object names the place in the file.
func (e *MembersError) Object() string {
	return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
}

// Cause says what is wrong there.
func (e *MembersError) Cause() string { return e.Err.Error() }

// Next shows what a line looks like.
func (e *MembersError) Next() string {
	return "write one peer ID to a line, as `grid id` prints it; what follows # is a comment"
}

func (e *MembersError) Unwrap() error { return e.Err }

// maxMembersFile bounds what is read, in bytes: some 250,000 members.
const maxMembersFile = 16 << 20

// ReadMembers reads a file of peer IDs, one to a line. Blank lines are skipped,
// and so is what follows a #.
func ReadMembers(file string) ([]ri2n.PeerID, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMembersFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxMembersFile {
		return nil, &fs.PathError{Op: "read", Path: file, Err: fmt.Errorf("larger than %d MiB", maxMembersFile>>20)}
	}
	return parseMembers(file, string(b))
}

func parseMembers(file, text string) (members []ri2n.PeerID, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		word := strings.TrimSpace(line)
		if word == "" {
			continue
		}
		id, err := ri2n.ParsePeerID(word)
		if err != nil {
			return nil, &MembersError{
				File:   file,
				Line:   number,
				Column: strings.Index(line, word) + 1,
				Err:    errors.New("this is not a peer ID of 52 letters and digits"),
			}
		}
		members = append(members, id)
	}
	return members, nil
}

// WatchMembers looks at file every interval, and whenever reload delivers,
// until ctx ends; reload may be nil. When the file has changed, and the first
// time, it is read and given to apply. A file that cannot be read changes nothing: it is given to
// failed, once for each change.
func WatchMembers(ctx context.Context, file string, interval time.Duration, reload <-chan os.Signal,
	apply func([]ri2n.PeerID), failed func(error)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last fileStamp // none, so that what changed since the caller read it is seen
	for {
		forced := false
		select {
		case <-ctx.Done():
			return
		case <-reload:
			forced = true
		case <-ticker.C:
		}
		// The stamp is taken before reading, so that a change in between is
		// seen the next time.
		stamp := stampOf(file)
		if stamp == last && !forced {
			continue
		}
		last = stamp
		members, err := ReadMembers(file)
		if err != nil {
			failed(err)
			continue
		}
		apply(members)
	}
}

// A fileStamp changes when a file does.
type fileStamp struct {
	modified time.Time
	size     int64
	missing  bool
}

func stampOf(file string) fileStamp {
	info, err := os.Stat(file)
	if err != nil {
		return fileStamp{missing: true}
	}
	return fileStamp{modified: info.ModTime(), size: info.Size()}
}
