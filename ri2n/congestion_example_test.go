package ri2n_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// fixedRate sends at a rate that somebody has agreed on, whatever the path does.
// It embeds one of the package's own controllers for what it does not decide
// itself.
type fixedRate struct {
	ri2n.CongestionController
	bytesPerSecond float64
	rtt            time.Duration
}

func (f *fixedRate) OnAck(_ time.Time, s ri2n.AckSample) { f.rtt = s.RTT.Smoothed }

func (f *fixedRate) OnLoss(time.Time, ri2n.LossEvent) {}

func (f *fixedRate) PacingRate() float64 { return f.bytesPerSecond }

// Cwnd leaves room for two round trips, so that the rate is what limits.
func (f *fixedRate) Cwnd() int {
	return 64<<10 + int(2*f.bytesPerSecond*f.rtt.Seconds())
}

func ExampleCongestionController() {
	listen := func(cfg ri2n.Config) (*ri2n.Endpoint, *ri2n.Link) {
		var err error
		if cfg.Identity, err = ri2n.NewIdentity(rand.Reader); err != nil {
			log.Fatal(err)
		}
		cfg.Authorize = func(ri2n.PeerID) error { return nil }
		endpoint, err := ri2n.NewEndpoint(cfg)
		if err != nil {
			log.Fatal(err)
		}
		socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		link, err := endpoint.AddLink("loopback", socket)
		if err != nil {
			log.Fatal(err)
		}
		return endpoint, link
	}
	sender, from := listen(ri2n.Config{
		NewCongestion: func(p ri2n.CongestionParams) ri2n.CongestionController {
			return &fixedRate{ri2n.CongestionNewReno.New(p), 10e6 / 8, 0}
		},
	})
	defer sender.Close()
	receiver, to := listen(ri2n.Config{})
	defer receiver.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() {
		session, err := receiver.Accept(ctx)
		if err != nil {
			log.Fatal(err)
		}
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			log.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, stream)
		fmt.Fprintln(stream, n, "bytes")
		stream.Close()
	}()

	address := to.LocalAddr().(*net.UDPAddr).AddrPort()
	session, err := sender.Dial(ctx, receiver.PeerID(), ri2n.Remote{Link: from, Addr: address})
	if err != nil {
		log.Fatal(err)
	}
	stream, err := session.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	begun := time.Now()
	stream.Write(make([]byte, 250_000))
	stream.CloseWrite()
	answer, _ := io.ReadAll(stream)
	fmt.Printf("%s", answer)
	// 250 kB at 10 Mbit/s take 200 ms.
	fmt.Println(time.Since(begun) > 150*time.Millisecond)
	// Output:
	// 250000 bytes
	// true
}
