package sweep

import (
	"context"
	"sync"
	"time"
)

// Config says what to do. Tasks, Do and Emit are needed.
type Config struct {
	// Tasks is how many there are; they are numbered from 0.
	Tasks int

	// Do carries one task out. It is called for a window of tasks at once. An
	// error is the task's outcome unless ctx has ended.
	Do func(ctx context.Context, task int) ([]byte, error)

	// Emit takes an outcome, one at a time. An error ends the sweep.
	Emit func(Outcome) error

	// Journal keeps results. Nil: they are lost with the process.
	Journal *Journal

	// Window is how many tasks are under way at once. Zero: 256.
	Window int

	// Unordered has outcomes emitted as they come, those of the journal first;
	// otherwise in the order of the tasks.
	Unordered bool

	// Progress is told the count of tasks with an outcome each time that it
	// grows. Nil: nobody is.
	Progress func(done int)
}

const defaultWindow = 256

// An Outcome is how a task ended.
type Outcome struct {
	Task   int
	Result []byte
	Err    error         // in place of a result
	Kept   bool          // it was in the journal
	Took   time.Duration // zero: it was in the journal
}

// A Summary counts outcomes.
type Summary struct {
	Done   int // with a result, those of the journal included
	Kept   int // that the journal had at the beginning
	Failed int
}

// Run does all tasks and returns when each is emitted. The error is ctx's,
// Emit's or the journal's; what had failed by then is done again the next time.
func Run(ctx context.Context, cfg Config) (sum Summary, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var doing sync.WaitGroup
	defer doing.Wait()
	defer cancel()
	window := cfg.Window
	if window <= 0 {
		window = defaultWindow
	}
	window = min(window, max(cfg.Tasks, 1))

	r := &release{cfg: cfg}
	tasks := make(chan int)
	ended := make(chan Outcome, window)
	broken := make(chan error, window)
	for range window {
		doing.Go(func() {
			for task := range tasks {
				o, err := cfg.do(ctx, task)
				if err != nil {
					broken <- err
					return
				}
				select {
				case ended <- o:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	missing := make([]int, 0, cfg.Tasks)
	for task := range cfg.Tasks {
		if cfg.Journal != nil && cfg.Journal.Has(task) {
			sum.Done++
			sum.Kept++
			if err := r.take(Outcome{Task: task, Kept: true}); err != nil {
				close(tasks)
				return sum, err
			}
			continue
		}
		missing = append(missing, task)
	}
	if cfg.Progress != nil && sum.Kept > 0 {
		cfg.Progress(sum.Kept)
	}
	doing.Go(func() {
		defer close(tasks)
		for _, task := range missing {
			select {
			case tasks <- task:
			case <-ctx.Done():
				return
			}
		}
	})
	for range missing {
		select {
		case o := <-ended:
			if o.Err != nil {
				sum.Failed++
			} else {
				sum.Done++
			}
			if cfg.Progress != nil {
				cfg.Progress(sum.Done + sum.Failed)
			}
			if err := r.take(o); err != nil {
				return sum, err
			}
		case err := <-broken:
			return sum, err
		case <-ctx.Done():
			return sum, ctx.Err()
		}
	}
	return sum, nil
}

// do carries one task out and keeps what comes of it. The error ends the sweep.
func (cfg *Config) do(ctx context.Context, task int) (Outcome, error) {
	begun := time.Now()
	b, err := cfg.Do(ctx, task)
	if ctx.Err() != nil {
		return Outcome{}, ctx.Err()
	}
	o := Outcome{Task: task, Result: b, Err: err, Took: time.Since(begun)}
	if err != nil {
		o.Result = nil
		return o, nil
	}
	if cfg.Journal == nil {
		return o, nil
	}
	// What is kept is read again when its turn comes, so that results that wait
	// for an earlier one are not in memory.
	o.Result = nil
	return o, cfg.Journal.Append(task, b)
}

// A release emits outcomes in the order that is wanted.
type release struct {
	cfg     Config
	next    int // the task whose turn it is
	waiting map[int]Outcome
}

func (r *release) take(o Outcome) error {
	if r.cfg.Unordered {
		return r.emit(o)
	}
	if r.waiting == nil {
		r.waiting = make(map[int]Outcome)
	}
	r.waiting[o.Task] = o
	for {
		o, ok := r.waiting[r.next]
		if !ok {
			return nil
		}
		delete(r.waiting, r.next)
		r.next++
		if err := r.emit(o); err != nil {
			return err
		}
	}
}

func (r *release) emit(o Outcome) (err error) {
	if o.Err == nil && r.cfg.Journal != nil {
		if o.Result, err = r.cfg.Journal.Result(o.Task); err != nil {
			return err
		}
	}
	return r.cfg.Emit(o)
}
