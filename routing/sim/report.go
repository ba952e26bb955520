package sim

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/instantgrid/instantgrid/routing/object"
)

// Options say what Run simulates.
type Options struct {
	Seed    uint64
	Nodes   int     // at least 1
	Lookups int     // zero means 1000
	Churn   float64 // the part of the nodes that leave at once, from 0 to 0.9
	Objects int     // location objects that live through it

	// Stopped ends the run, with ErrStopped, when it returns true. Nil never
	// does.
	Stopped func() bool

	// Progress is told of each phase. Nil tells nobody.
	Progress func(phase string)
}

// A Report is the outcome of Run. Times are virtual but for RealSeconds.
type Report struct {
	Nodes        int     `json:"nodes"`
	Churn        float64 `json:"churn"`
	Left         int     `json:"left"`
	JoinFailed   int     `json:"join_failed"`
	Lookups      int     `json:"lookups"`
	Correct      int     `json:"correct"`
	HopsMedian   int     `json:"hops_median"`
	HopsMax      int     `json:"hops_max"`
	HopsBound    int     `json:"hops_bound"` // ceil(log2 nodes) + 1
	RequestsMean float64 `json:"requests_mean"`
	SlowestMs    int64   `json:"slowest_ms"`

	// BytesPerNode is the heap of one node at rest; simulated nodes share
	// their members' records. ContactBytesPerNode is what the records of a
	// node's contacts take where they are not shared.
	BytesPerNode        int `json:"bytes_per_node"`
	ContactBytesPerNode int `json:"contact_bytes_per_node"`
	ContactsMean        int `json:"contacts_mean"`

	Objects     int `json:"objects"`
	ObjectsLost int `json:"objects_lost"` // of those, not found after the churn

	Messages       uint64  `json:"messages"`
	VirtualSeconds float64 `json:"virtual_seconds"`
	RealSeconds    float64 `json:"real_seconds"`
}

// ErrStopped reports that Options.Stopped has ended a run.
var ErrStopped = errors.New("sim: stopped")

// Run grows a grid, stores objects in it, lets nodes leave at once, waits 30 s
// and looks keys up.
func Run(o Options) (Report, error) {
	if o.Nodes < 1 || o.Churn < 0 || o.Churn > 0.9 {
		return Report{}, errors.New("sim: Nodes is at least 1 and Churn from 0 to 0.9")
	}
	if o.Lookups == 0 {
		o.Lookups = 1000
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	began := time.Now()
	out := Report{Nodes: o.Nodes, Churn: o.Churn, Lookups: o.Lookups, Objects: o.Objects}
	out.HopsBound = int(math.Ceil(math.Log2(float64(o.Nodes)))) + 1

	g := NewGrid(o.Seed)
	g.Stopped = o.Stopped
	o.Progress(fmt.Sprintf("%d nodes join", o.Nodes))
	before := liveBytes()
	out.JoinFailed = g.Grow(o.Nodes, max(50, o.Nodes/20))
	g.Run(5 * time.Second) // what is under way ends
	out.BytesPerNode = int(liveBytes()-before) / o.Nodes
	contacts := 0
	for _, n := range g.Nodes {
		contacts += n.Len()
	}
	out.ContactsMean = contacts / o.Nodes
	out.ContactBytesPerNode = out.ContactsMean * (memberBytes + proofSize)

	o.Progress(fmt.Sprintf("%d objects are stored", o.Objects))
	objects := g.store(o.Objects)

	out.Left = int(o.Churn * float64(o.Nodes))
	o.Progress(fmt.Sprintf("%d nodes leave", out.Left))
	for range out.Left {
		g.Kill(g.RandomAlive())
	}
	g.Run(30 * time.Second)

	o.Progress(fmt.Sprintf("%d lookups", o.Lookups))
	l := g.Look(o.Lookups, 30*time.Second)
	out.Correct, out.HopsMedian, out.HopsMax = l.Correct, l.Median(), l.Max()
	out.RequestsMean = float64(l.Asked) / float64(max(1, l.Count))
	out.SlowestMs = l.Slowest.Milliseconds()
	out.ObjectsLost = objects.lost()

	out.Messages, out.VirtualSeconds = g.Sent, g.Elapsed().Seconds()
	out.RealSeconds = time.Since(began).Seconds()
	if g.stopped() {
		return out, ErrStopped
	}
	return out, nil
}

// memberBytes is what a member takes without its proof.
const memberBytes = 120

// liveBytes returns the bytes of live objects.
func liveBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Objects are location objects of a grid, with the services that hold them.
type Objects struct {
	g        *Grid
	services []*object.Service
	records  []*object.Record
	holders  []int
}

// store gives every node the service of location objects, and stores count
// records, each held by some node.
func (g *Grid) store(count int) *Objects {
	o := &Objects{g: g}
	if count == 0 {
		return o
	}
	for i, n := range g.Nodes {
		s := object.New(n, object.Config{Rand: rand.New(rand.NewPCG(g.rand.Uint64(), uint64(i)))})
		o.services = append(o.services, s)
		g.hosts[i].Machines = append(g.hosts[i].Machines, s)
	}
	seed := sha256.Sum256([]byte("job"))
	owner := ed25519.NewKeyFromSeed(seed[:])
	grant := object.NewGrant(g.Nodes[0].Self(), NodeKey(0), object.Owner(owner.Public().(ed25519.PublicKey)))
	left := count
	for rank := range count {
		i := g.RandomAlive()
		r := &object.Record{Rank: uint64(rank), Incarnation: 1, Holder: g.Nodes[i].Self().Peer, Lease: time.Minute, Grant: grant}
		r.Sign(owner)
		o.records, o.holders = append(o.records, r), append(o.holders, i)
		g.After(time.Duration(rank)*20*time.Millisecond, func() {
			o.services[i].Swap(g.now, 0, r, owner, func(now time.Time, _ object.Entry, err error) {
				left--
				if err == nil {
					o.services[i].Hold(now, r, func(time.Time, object.Entry) {})
				}
			})
			g.Touch(i)
		})
	}
	g.RunUntil(time.Duration(count)*20*time.Millisecond+time.Minute, func() bool { return left == 0 })
	return o
}

// lost looks every record up and returns how many are not found.
func (o *Objects) lost() (lost int) {
	left := len(o.records)
	for _, r := range o.records {
		i := o.g.RandomAlive()
		o.services[i].Get(o.g.now, r.Key(), func(_ time.Time, e object.Entry, err error) {
			left--
			if err != nil {
				lost++
			}
		})
		o.g.Touch(i)
		o.g.Run(20 * time.Millisecond)
	}
	o.g.RunUntil(time.Minute, func() bool { return left == 0 })
	return lost + left
}
