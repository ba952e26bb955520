package mpi

// HeaderLen is the length of the head of each frame, in bytes.
const HeaderLen = 36

// MaxFrame is the longest body of a frame, in bytes.
const MaxFrame = 1 << 20

// An Endpoint joins one rank to the others. It carries frames: from each rank
// to each other in order, whole, once, until one of the two fails. [Join]
// makes one of connections, [Local] some in memory.
type Endpoint interface {
	// Rank and Size tell the place of this process.
	Rank() int
	Size() int

	// Start begins to hand frames to r. It is called once.
	Start(r Receiver)

	// Send writes a frame with a head of HeaderLen bytes and a body of at most
	// MaxFrame; both may be used again when it returns. There is one
	// call at a time for each rank, and none for the own one. The receiver of
	// a frame never waits for its own sends before it takes the next frame.
	Send(to int, head, body []byte) error

	// Drop ends all communication with a rank. It may be called at any time,
	// and from the receiver.
	Drop(rank int)

	// Close ends everything and returns when the receiver is not being called
	// any more. It must not be called from the receiver.
	Close() error
}

// A Receiver takes what an endpoint hands over: from each rank by one
// goroutine at a time. It does not block for long.
type Receiver interface {
	// Frame takes a whole frame; head and body are valid until it returns. An
	// error means that the sender does not keep to the protocol: it is dropped.
	Frame(from int, head, body []byte) error

	// Begin takes the head of a frame whose n bytes of body come next and
	// returns a buffer of n bytes for them. End follows, or Lost.
	Begin(from int, head []byte, n int) ([]byte, error)
	End(from int)

	// Lost says that nothing more comes from a rank, and that the buffer which
	// Begin has returned is not written to any more. It is called once.
	Lost(from int, err error)
}
