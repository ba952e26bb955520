package ledger

import "context"

// A Store is a small ordered map that survives crashes. Keys are printable
// ASCII, values at most 256 KiB. It is safe for concurrent use.
type Store interface {
	// Update runs f in one transaction and returns nil once its changes are
	// durable and seen by every later Update and View of anybody. When f
	// returns an error nothing is changed, and Update returns that error. F
	// may run several times, so that it must not have effects of its own.
	Update(ctx context.Context, f func(Tx) error) error

	// View runs f on one consistent state.
	View(ctx context.Context, f func(Reader) error) error

	// Revision returns a number that every Update of anybody changes.
	Revision(ctx context.Context) (uint64, error)

	// Close ends the store. It may be called twice.
	Close() error
}

// A Tx is a transaction under way. What it returns is valid until the end of
// the transaction, and must not be changed.
type Tx interface {
	// Get returns the value of key, nil if there is none.
	Get(key string) ([]byte, error)
	// Put and Delete take effect at the end of the transaction, and are seen
	// by Get before.
	Put(key string, value []byte) error
	Delete(key string) error
}

// A Reader reads one state of the store.
type Reader interface {
	Get(key string) ([]byte, error)
	// Range calls f for each key with prefix in order, until f returns false.
	Range(prefix string, f func(key string, value []byte) bool) error
}
