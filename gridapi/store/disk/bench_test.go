package disk

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var million = flag.Int("chunks", 20_000, "chunks of 4 KiB in BenchmarkMany; the figures of docs/store.md are of 1000000")

// BenchmarkMany puts many small chunks, each acknowledged, and looks them up.
func BenchmarkMany(b *testing.B) {
	for b.Loop() {
		n := *million
		d, err := Open(Config{Dir: b.TempDir(), Quota: 64 << 30})
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		ids := make([]chunk.ID, n)
		begun := time.Now()
		const putters = 128
		var running sync.WaitGroup
		for g := range putters {
			running.Go(func() {
				buf := make([]byte, 4096)
				r := rand.New(rand.NewPCG(uint64(g), 1))
				for i := g; i < n; i += putters {
					for j := 0; j < len(buf); j += 8 {
						binary.LittleEndian.PutUint64(buf[j:], r.Uint64())
					}
					ids[i] = chunk.Sum(buf)
					if err := d.Put(ids[i], buf); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		took := time.Since(begun)
		b.ReportMetric(float64(n)/took.Seconds(), "puts/s")
		b.ReportMetric(float64(d.Status().Index)/float64(n), "index-bytes/chunk")
		b.ReportMetric(float64(heap()-before-uint64(32*n))/float64(n), "heap-bytes/chunk")
		r := rand.New(rand.NewPCG(1, 2))
		times := make([]time.Duration, min(n, 100_000))
		buf := make([]byte, 0, 8192)
		for i := range times {
			id := ids[r.IntN(n)]
			begun := time.Now()
			if _, err := d.Get(id, buf); err != nil {
				b.Fatal(err)
			}
			times[i] = time.Since(begun)
		}
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "get-p50-us")
		b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "get-p99-us")
		begun = time.Now()
		for i := range times {
			d.Has(ids[i])
		}
		b.ReportMetric(float64(time.Since(begun).Nanoseconds())/float64(len(times)), "has-ns")
		dir := d.cfg.Dir
		begun = time.Now()
		d.Close()
		b.ReportMetric(time.Since(begun).Seconds(), "close-s")
		begun = time.Now()
		if d, err = Open(Config{Dir: dir, Quota: 64 << 30}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begun).Seconds(), "open-s")
		d.abandonForTest()
		if err := (directory(dir)).Remove(snapshotName); err != nil {
			b.Fatal(err)
		}
		begun = time.Now()
		if d, err = Open(Config{Dir: dir, Quota: 64 << 30}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begun).Seconds(), "rebuild-s")
		d.Close()
	}
}

func (d *Disk) abandonForTest() { (&fixture{Disk: d}).abandon() }

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkBolt is the index that we do not have: the same entries in bbolt, in
// transactions of 128 (decision 0032).
func BenchmarkBolt(b *testing.B) {
	for b.Loop() {
		n := *million
		db, err := bbolt.Open(filepath.Join(b.TempDir(), "index"), 0o600, nil)
		if err != nil {
			b.Fatal(err)
		}
		name := []byte("index")
		db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(name); return err })
		begun := time.Now()
		for i := 0; i < n; i += 128 {
			err := db.Update(func(tx *bbolt.Tx) error {
				for j := i; j < min(i+128, n); j++ {
					id := chunk.Sum(fmt.Append(nil, j))
					if err := tx.Bucket(name).Put(id[:], make([]byte, 12)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "puts/s")
		begun = time.Now()
		const lookups = 20_000
		for i := range lookups {
			db.View(func(tx *bbolt.Tx) error {
				id := chunk.Sum(fmt.Append(nil, i*(n/lookups)))
				if tx.Bucket(name).Get(id[:]) == nil {
					b.Error("lost")
				}
				return nil
			})
		}
		b.ReportMetric(float64(time.Since(begun).Nanoseconds())/lookups, "has-ns")
		db.Close()
	}
}
