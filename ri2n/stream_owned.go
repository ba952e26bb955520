package ri2n

import (
	"net"
	"os"
	"time"
)

// WriteOwned queues b without copying it. It waits while the stream's buffer
// is full, as Write does, but then takes all of b, however long.
//
// The memory of b belongs to the stream until release is called, which happens
// exactly once: when the peer has acknowledged all of b, when it will never
// get it because the stream was reset or the session has ended, or, with an
// error, before WriteOwned returns. Until then b must not be written to.
// Release runs on a goroutine of the transport that holds locks: it must
// return soon and must not call methods of streams or sessions. It may be nil.
func (st *Stream) WriteOwned(b []byte, release func()) error {
	err := st.writeOwned(b, release)
	if err != nil && release != nil {
		release()
	}
	return err
}

func (st *Stream) writeOwned(b []byte, release func()) error {
	s := st.session
	waited := false
	for {
		if st.wd.expired() {
			st.stopWaiting(waited)
			return os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		if waited {
			st.writers--
		}
		err := st.writeErr
		if err == nil {
			err = s.err
		}
		if err != nil {
			s.mu.Unlock()
			return err
		}
		limit := st.bufferLimit()
		if room := limit - st.send.buffered(); room > 0 {
			st.send.writeOwned(b, release)
			if st.writers > 0 && st.send.buffered() < limit {
				s.wakeLater(st.writable.c)
			}
			s.queueStream(st)
			s.flush(time.Now())
			return nil
		}
		waited = true
		st.writers++
		st.wakeAt = limit - limit/writeRoom
		writable := st.writable.wait()
		s.mu.Unlock()
		select {
		case <-writable:
		case <-st.wd.wait():
		case <-s.done:
		}
	}
}

// ReadBuffers reads up to max bytes of what has arrived, or waits, and returns
// views of the memory that they arrived in instead of copying them. Its errors
// are those of Read; with an error or a max of zero there are no views.
//
// The bytes count as read: the peer may send more. Their memory, in blocks of
// 4 or 64 KiB that a view may share with others, is used again once release
// has been called, which any goroutine may do, also more than once. The views
// must not be written to, nor read after that. A caller that keeps many is
// bounded by nothing but its own care.
func (st *Stream) ReadBuffers(max int) (views net.Buffers, release func(), err error) {
	s := st.session
	for {
		if st.rd.expired() {
			return nil, nil, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		_, err = st.take(func() int {
			before := st.recv.consumed()
			views, release = st.recv.views(max)
			return int(st.recv.consumed() - before)
		})
		if len(views) > 0 || err != nil || max <= 0 {
			s.tellCredit(st)
			if release == nil && err == nil {
				release = func() {}
			}
			return views, release, err
		}
		readable := st.readable.wait()
		s.mu.Unlock()
		select {
		case <-readable:
		case <-st.rd.wait():
		case <-s.done:
		}
	}
}
