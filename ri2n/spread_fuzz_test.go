package ri2n

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// checkBytes fails unless every byte that was ever sent is acknowledged, in the
// queue of what is to be sent again, or in flight in a packet whose loss puts
// it there.
func checkBytes(t *testing.T, s *Session) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[*Stream]*intervalSet)
	note := func(r frameRef) {
		if r.kind != refStream || r.stream.retired || r.length == 0 {
			return
		}
		set := known[r.stream]
		if set == nil {
			set = &intervalSet{}
			known[r.stream] = set
		}
		set.add(r.offset, r.offset+uint64(r.length))
	}
	for _, p := range s.paths {
		p.loss.outstanding(func(sp *sentPacket) {
			note(sp.first)
			for _, r := range sp.extra {
				note(r)
			}
		})
	}
	for st := range s.streams.all() {
		b := &st.send
		if b.sent == b.base || b.dropped {
			continue
		}
		set := known[st]
		if set == nil {
			set = &intervalSet{}
		}
		for _, v := range append(append([]interval(nil), b.acked.list...), b.lost.list...) {
			set.add(v.start, v.end)
		}
		if !set.contains(b.base, b.sent) {
			t.Fatalf("stream %d: of [%d, %d) only %v are acknowledged, queued or in flight", st.id, b.base, b.sent, set.list)
		}
		if b.lost.len() > 0 && !st.queued {
			t.Fatalf("stream %d has %d bytes to send again and is in no queue", st.id, b.lost.total())
		}
	}
}

// playSpread has a session live through the events of script, two bytes each,
// over three paths, and then finish its transfers.
func playSpread(t *testing.T, script []byte) {
	synctest.Test(t, func(t *testing.T) {
		good := []netsim.Link{
			{Delay: 5 * time.Millisecond, Rate: 20e6},
			{Delay: 20 * time.Millisecond, Rate: 20e6},
			{Delay: 10 * time.Millisecond, Rate: 2e6},
		}
		w, client, server, hosts := simLinks(t, 1, nil, good...)
		a, b := streamPair(t, client, server)
		c, d := streamPair(t, client, server)
		for _, st := range []*Stream{b, d} {
			go io.Copy(io.Discard, st)
		}
		sent := 0
		for ; len(script) >= 2; script = script[2:] {
			event, arg := script[0]%8, int(script[1])
			up := good[arg%3]
			switch event {
			case 0:
				up.Cut = true
				w.SetUplink(hosts[arg%3], up)
			case 1:
				w.SetUplink(hosts[arg%3], up)
			case 2:
				up.Loss = float64(arg) / 512
				up.Jitter, up.Reorder = 10*time.Millisecond, 0.3
				w.SetUplink(hosts[arg%3], up)
			case 3:
				client.SetPolicy([]Policy{PolicyAggregate, PolicyBackup, PolicyLatency, PolicyRedundant(2), PolicyRedundant(3)}[arg%5])
			case 4:
				c.SetPolicy([]Policy{PolicyAggregate, PolicyBackup, PolicyLatency, PolicyRedundant(2), policyInherit}[arg%5])
			case 5:
				client.AbandonPath(uint32(arg % 3 * 2))
			default:
				a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				n, _ := a.Write(make([]byte, arg*500))
				m, _ := c.Write(make([]byte, arg*40))
				sent += n + m
			}
			checkBytes(t, client)
			time.Sleep(time.Duration(arg) * 500 * time.Microsecond)
			synctest.Wait()
			checkBytes(t, client)
		}
		for i, h := range hosts {
			w.SetUplink(h, good[i])
		}
		begun := time.Now()
		for time.Since(begun) < 50*time.Second {
			client.mu.Lock()
			left := a.send.buffered() + c.send.buffered()
			client.mu.Unlock()
			if left == 0 || client.Err() != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
			checkBytes(t, client)
		}
		if err := client.Err(); err != nil {
			t.Fatalf("session ended: %v", err)
		}
		client.mu.Lock()
		left := a.send.buffered() + c.send.buffered()
		client.mu.Unlock()
		if left > 0 {
			logPaths(t, client)
			t.Fatalf("%d of %d bytes are not acknowledged 50 s after the links are whole", left, sent)
		}
	})
}

// spreadScripts are where the fuzz target begins.
var spreadScripts = map[string]string{
	"quiet":    "\x06\xff\x06\xff\x06\xff",
	"cuts":     "\x06\xff\x00\x00\x06\xff\x06\xff\x01\x00\x00\x01\x06\xff\x06\xff\x00\x00\x06\xff",
	"loss":     "\x02\x30\x02\x31\x02\x32\x06\xff\x06\xff\x06\xff\x06\xff",
	"policies": "\x03\x03\x06\xff\x04\x01\x06\xff\x03\x02\x06\xff\x03\x01\x04\x03\x06\xff\x00\x00\x06\xff",
	"abandon":  "\x06\xff\x05\x00\x06\xff\x05\x01\x06\xff\x05\x02\x06\xff",
	"all dead": "\x06\xff\x00\x00\x00\x01\x00\x02\x06\xff\x06\xff\x03\x03\x06\xff",
}

// FuzzSpread: whatever happens to paths and policies, no byte is forgotten.
func FuzzSpread(f *testing.F) {
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) <= 80 {
			playSpread(t, script)
		}
	})
}

func TestSpread(t *testing.T) {
	for name, script := range spreadScripts {
		t.Run(name, func(t *testing.T) { playSpread(t, []byte(script)) })
	}
}
