package transfer

import (
	"encoding/json"
	"errors"
	"io"
	"os"
)

// journalSchema names the format of the journal's one line of JSON.
const journalSchema = "instantgrid/journal/1"

// maxJournal bounds what is read of a journal, in bytes.
const maxJournal = 4 << 10

// A journalEntry says whose file it is that a receiver has the beginning of,
// and how much of it is surely on the disk.
type journalEntry struct {
	Schema string `json:"schema"`
	From   string `json:"from"`
	Size   int64  `json:"size"`   // bytes, of the whole file
	Offset int64  `json:"offset"` // bytes that survive a power cut
}

// readJournal returns the entry for the file called name. Whatever is not one
// is an error; the caller then knows nothing.
func readJournal(root *os.Root, name string) (e journalEntry, err error) {
	f, err := root.Open(name + journalSuffix)
	if err != nil {
		return e, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJournal))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return journalEntry{}, err
	}
	if e.Schema != journalSchema || e.Offset < 0 || e.Size < 0 {
		return journalEntry{}, errors.New("transfer: not a journal of this version")
	}
	return e, nil
}

// writeJournal replaces the entry, so that a reader finds the old one or the
// new one whatever happens; a volatile one need not survive a power cut.
func writeJournal(root *os.Root, name string, e journalEntry, volatile bool) error {
	e.Schema = journalSchema
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	fresh := name + journalSuffix + ".new"
	f, err := root.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil && !volatile {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = root.Rename(fresh, name+journalSuffix)
	}
	if err != nil {
		_ = root.Remove(fresh)
	}
	return err
}
