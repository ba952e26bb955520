package overlay

import (
	"io"
	"sync"
)

const (
	// Copying into a connection reads smallCopy bytes at a time, and largeCopy
	// once a read has filled that: an idle connection holds little, and a busy one
	// makes few calls.
	smallCopy = 16 << 10
	largeCopy = 256 << 10
	// ownedCopy is the size from which a block is handed to the transport
	// instead of copied: smaller ones would keep a large buffer each.
	ownedCopy = 64 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallCopy]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeCopy]byte) }}
)

// ReadFrom writes what r has until its end, as [io.Copy] asks for. Large blocks
// are not copied on their way into packets.
func (c *conn) ReadFrom(r io.Reader) (total int64, err error) {
	large := false
	for {
		var n int
		if large {
			n, err = c.copyLarge(r)
		} else {
			n, err = c.copySmall(r)
		}
		total += int64(n)
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		case large:
			large = n >= smallCopy
		default:
			large = n == smallCopy
		}
	}
}

func (c *conn) copySmall(r io.Reader) (int, error) {
	buf := smallBuffers.Get().(*[smallCopy]byte)
	defer smallBuffers.Put(buf)
	n, err := r.Read(buf[:])
	if n > 0 {
		if _, werr := c.Write(buf[:n]); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (c *conn) copyLarge(r io.Reader) (int, error) {
	buf := largeBuffers.Get().(*[largeCopy]byte)
	release := func() { largeBuffers.Put(buf) }
	n, err := r.Read(buf[:])
	if n < ownedCopy {
		defer release()
		if n > 0 {
			if _, werr := c.Write(buf[:n]); werr != nil {
				return n, werr
			}
		}
		return n, err
	}
	if werr := c.stream.WriteOwned(buf[:n], release); werr != nil {
		return n, c.explain("write", werr)
	}
	c.a.peer.sent.Add(uint64(n))
	return n, err
}

// WriteTo writes what arrives to w until the peer has closed its side, as
// [io.Copy] asks for, from the memory that it arrived in.
func (c *conn) WriteTo(w io.Writer) (total int64, err error) {
	for {
		views, release, err := c.stream.ReadBuffers(largeCopy)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, c.explain("read", err)
		}
		n, err := views.WriteTo(w) // one system call, into a kernel's socket
		release()
		c.a.peer.received.Add(uint64(n))
		total += n
		if err != nil {
			return total, err
		}
	}
}

var _ interface {
	io.ReaderFrom
	io.WriterTo
} = (*conn)(nil)
