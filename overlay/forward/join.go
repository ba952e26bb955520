package forward

import (
	"io"
	"net"
	"sync"
)

// Join copies between a and b in both directions until both have ended, closes
// them, and returns how many bytes went each way. The end of one direction is
// passed on as such, and the other goes on; when one fails, both connections are
// given up, so that nobody takes what came until then for the whole.
func Join(a, b net.Conn) (fromA, fromB int64) {
	var running sync.WaitGroup
	running.Go(func() { fromA = pass(b, a) })
	fromB = pass(a, b)
	running.Wait()
	a.Close()
	b.Close()
	return fromA, fromB
}

// pass copies from src to dst. Both packages' connections know how to do so with
// few copies of large blocks.
func pass(dst, src net.Conn) int64 {
	n, err := io.Copy(dst, src)
	if err != nil {
		giveUp(src)
		giveUp(dst)
		return n
	}
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // it fails when the other direction has given up
	} else {
		dst.Close()
	}
	return n
}

// giveUp closes c so that its peer sees a failure and not an end.
func giveUp(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // of a socket that is closed, perhaps
	}
	c.Close()
}
