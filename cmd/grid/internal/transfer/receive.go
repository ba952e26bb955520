package transfer

import (
	"context"
	"net"
	"time"
)

const (
	// ackBytes and ackInterval: the receiver acknowledges when it has written
	// one, or when the other has passed and there is something to say.
	ackBytes    = 256 << 10
	ackInterval = 100 * time.Millisecond
)

// ReceiveOptions say where a file goes.
type ReceiveOptions struct {
	// Dir is the directory; empty means the current one.
	Dir string
	// Name replaces the name that the sender gave. Empty keeps it.
	Name string
	// Overwrite replaces what is in the way: a file of that name, or the rest
	// of another transfer.
	Overwrite bool
	// From names the sender. Only what came from the same one is taken up
	// again.
	From string
	// Finished is an earlier result of the same transfer, whose sender may not
	// know yet. Nil means none.
	Finished *Result
	// Observer is told how it goes.
	Observer Observer

	// open replaces the file system's files in tests; nil opens real ones.
	open func(*partFile, Offer) (partData, error)
	// volatile leaves out what makes files survive a power cut, which takes
	// most of the time of a fuzz target.
	volatile bool
}

// Receive takes one file from conn, which it leaves open, and returns once it
// is verified, in place, and known to be so at the sender, if that answers.
//
// It returns a *[LostError] when the connection ended first, a *[SpaceError]
// when the disk is full, an *[ObstacleError] when something of that name is
// there, an *[AbortError] when the sender gave up, a *[NameError],
// *[IntegrityError], *[VersionError], *[ProtocolError], or ctx's error. Except
// after an IntegrityError, what has arrived is kept for the next call.
func Receive(ctx context.Context, conn net.Conn, opt ReceiveOptions) (Result, error) {
	f := &framer{conn: conn}
	stop := f.watch(ctx)
	r, err := receive(ctx, f, opt)
	stop()
	if err = because(ctx, err); err != nil {
		f.tell(err)
		return Result{}, err
	}
	return r, nil
}

func receive(ctx context.Context, f *framer, opt ReceiveOptions) (Result, error) {
	f.out = appendHello(appendFrameHeader(nil, frameHello, len(magic)+2), hello{version, roleReceiver})
	if err := f.greet(ctx, roleSender); err != nil {
		return Result{}, err
	}
	b, err := f.expect(ctx, frameOffer, helloTimeout)
	if err != nil {
		return Result{}, err
	}
	offer, err := parseOffer(b)
	if err != nil {
		return Result{}, noPrefix(err)
	}
	if opt.Name != "" {
		offer.Name = opt.Name
		if err := checkOwnName(opt.Name); err != nil {
			return Result{}, err
		}
	}
	if there := opt.Finished; there != nil && there.Size == offer.Size {
		return confirm(ctx, f, offer, *there, opt.Observer)
	}
	p, err := openPart(ctx, offer, opt)
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	if err := f.write(frameHave, appendHave(nil, p.have)); err != nil {
		return Result{}, err
	}
	start, err := readStart(ctx, f, p.have)
	if err != nil {
		return Result{}, err
	}
	if err := p.begin(start); err != nil {
		return Result{}, err
	}
	opt.Observer.begin(offer, start)
	theirs, err := takeData(ctx, f, p, opt.Observer)
	if err != nil {
		return Result{}, err
	}
	ours := p.sum()
	if ours != theirs {
		p.discard()
		return Result{}, &IntegrityError{Path: p.path(), Ours: ours, Theirs: theirs}
	}
	if err := p.finish(); err != nil {
		return Result{}, err
	}
	sayDone(ctx, f, ours)
	return Result{Name: p.name, Path: p.path(), Size: offer.Size, Start: start, Sum: ours}, nil
}

// readStart reads where the data will begin: at the start of the file, or at
// the end of one of the beginnings that we have.
func readStart(ctx context.Context, f *framer, h have) (int64, error) {
	b, err := f.expect(ctx, frameStart, silenceLimit)
	if err != nil {
		return 0, err
	}
	start, err := parseOffset(b)
	if err != nil {
		return 0, noPrefix(err)
	}
	if start == 0 {
		return 0, nil
	}
	for _, x := range h {
		if x.length == start {
			return start, nil
		}
	}
	return 0, protocolErrorf("data that starts at %d, which we did not ask for", start)
}

// takeData writes the data to p until the final hash, which it returns.
func takeData(ctx context.Context, f *framer, p *partFile, watch Observer) (Sum, error) {
	buf := make([]byte, ackBytes)
	acked := p.offset
	var last time.Time
	acknowledge := func(now time.Time) error {
		acked, last = p.offset, now
		if err := f.write(frameAck, appendOffset(nil, acked)); err != nil {
			return err
		}
		watch.progress(acked)
		return nil
	}
	for {
		t, n, err := f.header(ctx, silenceLimit)
		if err != nil {
			return Sum{}, err
		}
		if t != frameData {
			return endOfData(f, t, n, p)
		}
		if int64(n) > p.size-p.offset {
			return Sum{}, protocolErrorf("more data than the %d bytes offered", p.size)
		}
		for n > 0 {
			k, err := f.conn.Read(buf[:min(n, len(buf))])
			if k > 0 {
				n -= k
				if err := p.write(buf[:k]); err != nil {
					return Sum{}, err
				}
			} else if err != nil {
				return Sum{}, &LostError{err}
			}
			if now := time.Now(); n == 0 || p.offset-acked >= ackBytes || now.Sub(last) >= ackInterval {
				if err := acknowledge(now); err != nil {
					return Sum{}, err
				}
			}
		}
	}
}

// endOfData reads the rest of the first frame that is not data.
func endOfData(f *framer, t frameType, n int, p *partFile) (Sum, error) {
	b, err := f.payload(n)
	if err != nil {
		return Sum{}, err
	}
	switch {
	case t == frameAbort:
		a, err := parseAbort(b)
		if err != nil {
			return Sum{}, noPrefix(err)
		}
		return Sum{}, &a
	case t != frameFinal:
		return Sum{}, protocolErrorf("frame of type %d where data belongs", t)
	case p.offset != p.size:
		return Sum{}, protocolErrorf("end after %d of %d bytes", p.offset, p.size)
	}
	sum, err := parseSum(b)
	return sum, noPrefix(err)
}

// sayDone tells the sender that the file is in place and waits for its bye, so
// that a program which then exits does not take the message along. The file is
// there whether or not this works.
func sayDone(ctx context.Context, f *framer, sum Sum) {
	if f.write(frameDone, sum[:]) == nil {
		_, _ = f.expect(ctx, frameBye, helloTimeout)
	}
}

// confirm answers a sender that has not heard of an earlier success: the file
// is here, and with the same content nothing needs to be sent.
func confirm(ctx context.Context, f *framer, offer Offer, there Result, watch Observer) (Result, error) {
	var h have
	if there.Size > 0 {
		h = have{{there.Size, there.Sum}}
	}
	if err := f.write(frameHave, appendHave(nil, h)); err != nil {
		return Result{}, err
	}
	start, err := readStart(ctx, f, h)
	if err != nil {
		return Result{}, err
	}
	if start != there.Size {
		return Result{}, &ObstacleError{Path: there.Path, Problem: "it was received before, and the sender's file is another one now"}
	}
	watch.begin(offer, start)
	b, err := f.expect(ctx, frameFinal, silenceLimit)
	if err != nil {
		return Result{}, err
	}
	theirs, err := parseSum(b)
	if err != nil {
		return Result{}, noPrefix(err)
	}
	if theirs != there.Sum {
		return Result{}, &IntegrityError{Path: there.Path, Ours: there.Sum, Theirs: theirs}
	}
	sayDone(ctx, f, theirs)
	there.Start = start
	return there, nil
}

// checkOwnName is CheckName for a name that our own user chose, who may choose
// a hidden one.
func checkOwnName(name string) error {
	if len(name) > 1 && name[0] == '.' && name != ".." {
		return CheckName("x" + name[1:])
	}
	return CheckName(name)
}
