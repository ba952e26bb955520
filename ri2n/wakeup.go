package ri2n

// A wakeup wakes one of those who wait for something to change. It has a
// channel only once somebody has waited: most sessions are idle, and nobody
// waits for most of what may happen to them. The zero value is ready; the
// session's mutex guards it.
type wakeup struct{ c chan struct{} }

// wait returns the channel to receive from. Whoever calls it has looked, under
// the same hold of the mutex, that there is something to wait for.
func (w *wakeup) wait() <-chan struct{} {
	if w.c == nil {
		w.c = make(chan struct{}, 1)
	}
	return w.c
}

// signal wakes one waiter, now or when it comes.
func (w *wakeup) signal() {
	if w.c != nil {
		signal(w.c)
	}
}
