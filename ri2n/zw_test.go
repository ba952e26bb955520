package ri2n
import ("testing";"testing/synctest";"time";"io";"fmt";"github.com/instantgrid/instantgrid/netsim")
func TestZW(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := netsim.Link{Delay: 10 * time.Millisecond}
		w, client, server := simPair(t, 1, up)
		a, b := streamPair(t, client, server)
		go io.Copy(io.Discard, b)
		a.Write(make([]byte, 1<<20))
		time.Sleep(2 * time.Second)
		up.MTU = 1300
		w.SetUplink("host1", up)
		begun := time.Now()
		go func() { a.Write(make([]byte, 4<<20))
		a.CloseWrite() }()
		n := 0
		for func() bool { client.mu.Lock(); defer client.mu.Unlock(); return !a.send.done() }() {
			time.Sleep(10 * time.Millisecond)
			n++
			if n < 30 || n % 100 == 0 {
				client.mu.Lock()
				p := client.sending
				c := p.cc.(*bbr)
				fmt.Printf("%v %v state %v mtu %d bw %.1f short %.1f rate %.1f cwnd %d infl %d il %.0f is %.0f min %v srtt %v lost %d/%d ptos %d thr %d rec %v prior %.0f acked %d loss t.floor %.3f ptot %v\n", time.Since(begun), c.state, p.state, p.mtu, c.maxBW.max()*8/1e6, c.bounds.bwShort*8/1e6, c.rate*8/1e6, c.Cwnd(), p.loss.bytesInFlight(), c.bounds.inflightLong, c.bounds.inflightShort, c.minRTT.min, p.rtt.smoothed, p.packetsLost, p.packetsSent, p.probeTimeouts, p.loss.threshold, c.recovering, c.priorCwnd, a.send.base, c.tolerant.floor(), p.ptoCount)
				client.mu.Unlock()
			}
		}
	})
}
