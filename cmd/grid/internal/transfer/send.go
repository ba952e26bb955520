package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// An Observer is told how a transfer goes. Nil functions are not called. They
// are called on goroutines of the transfer and must not block.
type Observer struct {
	// Begin is called once for each connection: what is sent, and how many
	// bytes of it are there already.
	Begin func(o Offer, start int64)
	// Progress is called when the receiver has acknowledged, on either side
	// with the same meaning: it has written the first done bytes.
	Progress func(done int64)
}

func (o Observer) begin(offer Offer, start int64) {
	if o.Begin != nil {
		o.Begin(offer, start)
	}
}

func (o Observer) progress(done int64) {
	if o.Progress != nil {
		o.Progress(done)
	}
}

// A Result is a transfer that both sides have verified.
type Result struct {
	Name  string // of the file at this end
	Path  string // of the file at this end
	Size  int64  // bytes
	Start int64  // how many of them were there before this connection
	Sum   Sum
}

// Verify reads the file at this end again and returns an *[IntegrityError] if
// it is no longer what was received.
func (r Result) Verify() error {
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if sum := Sum(h.Sum(nil)); sum != r.Sum {
		return &IntegrityError{Path: r.Path, Ours: sum, Theirs: r.Sum}
	}
	return nil
}

// Send sends the file over conn, which it leaves open, and returns once the
// receiver has verified it and put it in place.
//
// It returns a *[LostError] when the connection ended first: call it again with
// the next one. It returns an *[AbortError] when the receiver gave up, a
// *[ChangedError], *[IntegrityError], *[VersionError], *[ProtocolError], or
// ctx's error, after telling the receiver.
func Send(ctx context.Context, conn net.Conn, src *Source, watch Observer) (Result, error) {
	f := &framer{conn: conn}
	stop := f.watch(ctx)
	start, state, err := negotiate(ctx, f, src)
	stop()
	if err = because(ctx, err); err != nil {
		f.tell(err)
		return Result{}, err
	}
	watch.begin(src.offer, start)
	sum, err := deliver(ctx, f, src, start, state, watch)
	if err != nil {
		return Result{}, err
	}
	return Result{Name: src.offer.Name, Path: src.path, Size: src.offer.Size, Start: start, Sum: sum}, nil
}

// negotiate offers the file and returns where its data begins, with the hash
// of what is before.
func negotiate(ctx context.Context, f *framer, src *Source) (start int64, state hash.Hash, err error) {
	if err := src.check(); err != nil {
		return 0, nil, err
	}
	offer := appendOffer(nil, src.offer)
	f.out = appendHello(appendFrameHeader(nil, frameHello, len(magic)+2), hello{version, roleSender})
	f.out = append(appendFrameHeader(f.out, frameOffer, len(offer)), offer...)
	if err := f.greet(ctx, roleReceiver); err != nil {
		return 0, nil, err
	}
	b, err := f.expect(ctx, frameHave, silenceLimit)
	if err != nil {
		return 0, nil, err
	}
	there, err := parseHave(b)
	if err != nil {
		return 0, nil, noPrefix(err)
	}
	return src.common(ctx, there)
}

// deliver sends the data while a listener takes in what the receiver says. The
// listener goes on until this side has nothing more to say, lest the two wait
// for each other.
func deliver(ctx context.Context, f *framer, src *Source, start int64, state hash.Hash, watch Observer) (Sum, error) {
	l := &listener{framer: f, watch: watch, size: src.offer.Size, acked: start}
	l.sent.Store(start)
	listening, hush := context.WithCancel(context.WithoutCancel(ctx))
	defer hush()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		l.run(listening)
		// Whatever ended it, nothing more than a bye needs to be sent.
		f.conn.SetWriteDeadline(past)
	}()
	stop := context.AfterFunc(ctx, func() { f.conn.SetWriteDeadline(time.Now().Add(abortTimeout)) })
	sum, err := pump(ctx, f, src, start, state, &l.sent)
	if err == nil {
		select {
		case <-heard:
		case <-ctx.Done():
		}
	}
	stop()
	select {
	case <-heard:
	default:
		if cause := because(ctx, err); cause != nil {
			err = cause
			f.tell(err)
		}
		var lost *LostError
		if !errors.As(err, &lost) {
			hush()
			f.conn.SetReadDeadline(past)
			<-heard
			return Sum{}, err
		}
		// The connection takes nothing more; the receiver may have said why.
		f.conn.SetReadDeadline(time.Now().Add(abortTimeout))
		<-heard
	}
	switch {
	case l.err != nil:
		f.tell(l.err)
		return Sum{}, l.err
	case l.done != sum || err != nil:
		return Sum{}, &IntegrityError{Path: src.path, Ours: sum, Theirs: l.done}
	}
	f.conn.SetWriteDeadline(time.Now().Add(abortTimeout))
	// The file is in place whether or not the receiver hears that we know.
	_ = f.write(frameBye, nil)
	return sum, nil
}

// pump writes start, the data from there on, and the hash of the whole file,
// for which state knows what is before. It counts in sent what it has written.
func pump(ctx context.Context, f *framer, src *Source, start int64, state hash.Hash, sent *atomic.Int64) (Sum, error) {
	if err := f.write(frameStart, appendOffset(nil, start)); err != nil {
		return Sum{}, err
	}
	buf := make([]byte, frameHeaderSize+chunkSize)
	for at := start; at < src.offer.Size; {
		if err := ctx.Err(); err != nil {
			return Sum{}, err
		}
		n := int(min(chunkSize, src.offer.Size-at))
		chunk := buf[frameHeaderSize:][:n]
		if err := src.read(chunk, at); err != nil {
			return Sum{}, err
		}
		state.Write(chunk)
		appendFrameHeader(buf[:0], frameData, n)
		at += int64(n)
		sent.Store(at) // before the bytes: an acknowledgement may come first
		if err := f.writeAll(buf[:frameHeaderSize+n]); err != nil {
			return Sum{}, err
		}
	}
	if err := src.check(); err != nil {
		return Sum{}, err
	}
	whole := Sum(state.Sum(nil))
	return whole, f.write(frameFinal, whole[:])
}

// A listener takes in what the receiver says during the data.
type listener struct {
	framer *framer
	watch  Observer
	size   int64
	acked  int64
	sent   atomic.Int64 // by the sending goroutine

	// Set when run returns: the receiver's hash, or what went wrong.
	done Sum
	err  error
}

func (l *listener) run(ctx context.Context) {
	for {
		t, b, err := l.framer.control(ctx, silenceLimit)
		if err != nil {
			l.err = err
			return
		}
		switch t {
		case frameAck:
			offset, err := parseOffset(b)
			if err == nil && (offset < l.acked || offset > l.sent.Load()) {
				err = protocolErrorf("acknowledgement of %d bytes between %d and %d", offset, l.acked, l.sent.Load())
			}
			if err != nil {
				l.err = noPrefix(err)
				return
			}
			l.acked = offset
			l.watch.progress(offset)
		case frameDone:
			l.done, l.err = parseSum(b)
			if l.err == nil && l.acked != l.size {
				l.err = protocolErrorf("done after %d of %d bytes", l.acked, l.size)
			}
			l.err = noPrefix(l.err)
			return
		default:
			l.err = protocolErrorf("frame of type %d where an acknowledgement belongs", t)
			return
		}
	}
}
