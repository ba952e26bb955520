package main

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// An eventLog keeps the newest events of a node, and wakes those who wait for
// more. It may be used concurrently.
type eventLog struct {
	mu    sync.Mutex // guards what follows
	keep  int
	first uint64 // number of events[0]
	list  []numberedEvent
	more  chan struct{} // closed, and replaced, when an event is added
}

// A numberedEvent is "instantgrid/event/1". Numbers count from 1 since the
// agent's start; a gap is what a reader has missed.
type numberedEvent struct {
	Number uint64 `json:"number"`
	overlay.Event
}

func newEventLog(keep int) *eventLog {
	return &eventLog{keep: keep, first: 1, more: make(chan struct{})}
}

func (l *eventLog) add(e overlay.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, numberedEvent{l.first + uint64(len(l.list)), e})
	if len(l.list) > l.keep {
		l.list = l.list[1:]
		l.first++
	}
	close(l.more)
	l.more = make(chan struct{})
}

// after returns the events kept whose number is above n and that are not older
// than since, and a channel that is closed when there are more.
func (l *eventLog) after(n uint64, since time.Time) (list []numberedEvent, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list {
		if e.Number > n && !e.Time.Before(since) {
			list = append(list, e)
		}
	}
	return list, l.more
}

// eventsPath answers with JSON lines: those kept from the query's since on (RFC
// 3339), or after the number in after; with follow=true also those to come.
const eventsPath = "/v1/events"

func serveEvents(s *controlServer, l *eventLog) {
	s.handle("GET "+eventsPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		var since time.Time
		var after uint64
		var err error
		if text := q.Get("since"); text != "" {
			if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
				answerError(w, cli.Usagef("since", "grid events --since 10m", "this is no time of RFC 3339"))
				return
			}
		}
		if text := q.Get("after"); text != "" {
			if after, err = strconv.ParseUint(text, 10, 64); err != nil {
				answerError(w, cli.Usagef("after", "grid events", "this is no number of an event"))
				return
			}
		}
		w.Header().Set("Content-Type", "application/jsonl")
		l.write(r.Context(), w, after, since, q.Get("follow") == "true")
	})
}

// write writes events until there are no more, or with follow until ctx ends.
func (l *eventLog) write(ctx context.Context, w http.ResponseWriter, after uint64, since time.Time, follow bool) {
	flush := http.NewResponseController(w).Flush
	for {
		list, more := l.after(after, since)
		for _, e := range list {
			b, err := cli.AppendDocument(nil, "event", e)
			if err == nil {
				_, err = w.Write(b)
			}
			if err != nil {
				return
			}
			after = e.Number
		}
		if flush() != nil || !follow {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}
