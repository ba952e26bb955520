//go:build !race

package ri2n

import (
	"crypto/tls"
	"io"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// The race detector makes sync.Pool forget at random, so allocations are
// counted without it.

func TestPacketKeysDoNotAllocate(t *testing.T) {
	for suite, name := range suiteNames() {
		k := mustPacketKeys(suite, secretForTest(suite))
		buf := make([]byte, 0, 1500)
		pn := packetNumber(0)
		if n := testing.AllocsPerRun(1000, func() {
			packet := appendShortHeader(buf, shortHeader{dcid: 1, pn: uint32(pn)})
			packet = packet[:1400]
			sealed := k.seal(packet, shortHeaderLen, 1, pn)
			if _, err := k.open(sealed, shortHeaderLen, 1, pn); err != nil {
				t.Error(err)
			}
			if _, err := k.open(sealed, shortHeaderLen, 1, pn); err == nil {
				t.Error("what is open opens again")
			}
			pn++
		}); n != 0 {
			t.Errorf("%s: %v allocations for each packet, want none", name, n)
		}
	}
}

// What a data packet is made of costs no allocation, on either side.
func TestCodecsDoNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1500)
	data := make([]byte, 1000)
	ranges := []ackRange{{90, 100}, {50, 80}, {1, 40}}
	scratch := make([]ackRange, 0, maxAckRanges)
	if n := testing.AllocsPerRun(1000, func() {
		b := appendShortHeader(buf, shortHeader{dcid: 1, pn: 2})
		b = appendAckFrame(b, ackFrame{path: 1, delay: time.Millisecond, ranges: ranges, hasECN: true})
		b = appendMaxDataFrame(b, maxDataFrame{1 << 30})
		b = append(appendStreamHeader(b, 4, 1<<20, len(data), true, false), data...)
		b = appendDatagramFrame(b, datagramFrame{data: data[:100], toEnd: true})

		_, b, err := parseShortHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			var typ uint64
			if typ, b, err = parseVarint(b); err != nil {
				t.Fatal(err)
			}
			switch {
			case typ == framePathAckECN:
				_, b, err = parseAckFrame(b, typ, scratch)
			case typ == frameMaxData:
				_, b, err = parseMaxDataFrame(b)
			case isStreamFrame(typ):
				_, b, err = parseStreamFrame(b, typ)
			case typ == frameDatagram:
				_, b, err = parseDatagramFrame(b, typ)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for each packet, want none", n)
	}
}

// Junk is refused without allocating, or a flood would be work for the
// collector.
func TestRefusalsDoNotAllocate(t *testing.T) {
	key := mac1Key(responderForTest())
	retry := appendLongHeader(nil, longHeader{typ: longRetry, version: version1, token: []byte("t")}, &key)
	k := mustPacketKeys(tls.TLS_AES_128_GCM_SHA256, secretForTest(tls.TLS_AES_128_GCM_SHA256))
	junk := make([]byte, 1200)
	junk[0] = bitSession
	if n := testing.AllocsPerRun(1000, func() {
		parseLongHeader(junk)
		parseLongHeader(retry[:len(retry)-1])
		parseVersionNegotiation(junk)
		parseAckFrame(junk, framePathAck, nil)
		parseTransportParams(junk)
		k.open(junk, shortHeaderLen, 0, 0)
		isStatelessReset(junk, [resetTokenLen]byte{1})
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// A stream that flows allocates for no packet, neither where it is sent nor
// where it arrives, and neither for each Write or Read.
func TestFlowDoesNotAllocate(t *testing.T) {
	client, server := loopbackPair(t)
	a, b := streamPair(t, client, server)
	const block = 32 << 10
	in, out := make([]byte, block), make([]byte, block)
	received := make(chan struct{}, 1)
	go func() {
		for {
			if _, err := io.ReadFull(b, in); err != nil {
				return
			}
			received <- struct{}{}
		}
	}()
	send := func(blocks int) {
		for range blocks {
			if _, err := a.Write(out); err != nil {
				t.Error(err)
				return
			}
			<-received
		}
	}
	send(2000) // until buffers and windows have their size
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	packets := func() uint64 { return client.Paths()[0].PacketsSent + server.Paths()[0].PacketsSent }
	var before, after runtime.MemStats
	sent := packets()
	runtime.ReadMemStats(&before)
	const blocks = 2000
	send(blocks)
	runtime.ReadMemStats(&after)
	sent = packets() - sent
	// What is left is the search for the path's MTU and the like, and what the
	// runtime does when the machine is busy.
	if n := after.Mallocs - before.Mallocs; n > blocks/10 || n > sent/50 {
		t.Errorf("%d allocations for %d blocks in %d packets", n, blocks, sent)
	}
}
