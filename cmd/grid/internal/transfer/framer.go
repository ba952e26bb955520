package transfer

import (
	"context"
	"io"
	"net"
	"time"
)

const (
	// helloTimeout bounds the wait for a peer's first frame.
	helloTimeout = 30 * time.Second
	// silenceLimit bounds the wait for any later frame. It is long, since the
	// peer may hash a large file before it answers; a peer that is gone is
	// noticed by the session below us, much earlier.
	silenceLimit = 10 * time.Minute
	// abortTimeout bounds what we spend on telling the peer that we give up.
	abortTimeout = 2 * time.Second
)

// A framer reads and writes frames on a connection: one goroutine may read
// while another writes.
type framer struct {
	conn net.Conn
	in   [maxControl]byte

	// Of the writing goroutine.
	out  []byte
	mute bool // a frame was cut short, or an abort is out: nothing may follow
}

// past is a deadline that makes calls return at once.
var past = time.Unix(1, 0)

// watch makes reads fail once ctx ends, until stop is called. A frame that is
// being written gets a moment to leave as a whole, since an abort is to follow.
func (f *framer) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		f.conn.SetReadDeadline(past)
		f.conn.SetWriteDeadline(time.Now().Add(abortTimeout))
	})
}

// write sends one frame. Data is copied into one buffer with its header, so
// that they leave together.
func (f *framer) write(t frameType, payload []byte) error {
	f.out = append(appendFrameHeader(f.out[:0], t, len(payload)), payload...)
	return f.flush()
}

// flush sends what is in out.
func (f *framer) flush() error {
	return f.writeAll(f.out)
}

// writeAll sends whole frames.
func (f *framer) writeAll(b []byte) error {
	if _, err := f.conn.Write(b); err != nil {
		f.mute = true
		return &LostError{err}
	}
	return nil
}

// header reads the header of the next frame.
func (f *framer) header(ctx context.Context, timeout time.Duration) (t frameType, n int, err error) {
	f.conn.SetReadDeadline(time.Now().Add(timeout))
	if ctx.Err() != nil { // whoever ended it may have set its deadline before
		f.conn.SetReadDeadline(past)
	}
	if _, err := io.ReadFull(f.conn, f.in[:frameHeaderSize]); err != nil {
		return 0, 0, &LostError{err}
	}
	t, n, _, err = parseFrameHeader(f.in[:frameHeaderSize])
	return t, n, err
}

// payload reads the n bytes of a control frame; they are valid until the next
// call.
func (f *framer) payload(n int) ([]byte, error) {
	if _, err := io.ReadFull(f.conn, f.in[:n]); err != nil {
		return nil, &LostError{err}
	}
	return f.in[:n], nil
}

// control reads a frame that is not data. The peer's abort becomes an
// AbortError.
func (f *framer) control(ctx context.Context, timeout time.Duration) (frameType, []byte, error) {
	t, n, err := f.header(ctx, timeout)
	if err != nil {
		return 0, nil, err
	}
	if t == frameData {
		return 0, nil, protocolErrorf("data out of order")
	}
	b, err := f.payload(n)
	if err != nil {
		return 0, nil, err
	}
	if t == frameAbort {
		a, err := parseAbort(b)
		if err != nil {
			return 0, nil, noPrefix(err)
		}
		return 0, nil, &a
	}
	return t, b, nil
}

// expect reads the one frame that may come now.
func (f *framer) expect(ctx context.Context, want frameType, timeout time.Duration) ([]byte, error) {
	t, b, err := f.control(ctx, timeout)
	if err == nil && t != want {
		err = protocolErrorf("frame of type %d where %d belongs", t, want)
	}
	return b, err
}

// greet sends what is in out, which begins with our hello, while it reads the
// peer's: both write first.
func (f *framer) greet(ctx context.Context, want role) error {
	written := make(chan error, 1)
	go func() { written <- f.flush() }()
	b, err := f.expect(ctx, frameHello, helloTimeout)
	if err != nil {
		// Whoever breaks the rules at once need not be written to.
		f.conn.SetWriteDeadline(past)
		<-written
		return noPrefix(err)
	}
	h, err := parseHello(b)
	if err == nil && h.role != want {
		err = protocolErrorf("both sides want to do the same: one sends and one receives")
	}
	if sent := <-written; err == nil {
		err = sent
	}
	return noPrefix(err)
}

// tell tells the peer that we stop because of err, if that is news to it.
func (f *framer) tell(err error) {
	a, news := abortFor(err)
	if !news || f.mute {
		return
	}
	f.conn.SetWriteDeadline(time.Now().Add(abortTimeout))
	// The reason is ours to report; telling it is best effort.
	_ = f.write(frameAbort, appendAbort(nil, a))
	f.mute = true
}

// because returns ctx's error in place of the time-outs that it caused.
func because(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && err != nil {
		return cause
	}
	return err
}

// noPrefix turns a frame that is cut short by its own length into a violation:
// the bytes are all there, since the frame said how many.
func noPrefix(err error) error {
	if err == io.ErrUnexpectedEOF {
		return protocolErrorf("frame shorter than its content")
	}
	return err
}
