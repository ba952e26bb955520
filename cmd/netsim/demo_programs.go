package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// programs are the binaries that the demo runs in namespaces.
type programs struct{ rendezvous, grid string }

// findPrograms looks beside this program.
func findPrograms() (programs, error) {
	self, err := os.Executable()
	if err != nil {
		return programs{}, err
	}
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	dir := filepath.Dir(self)
	p := programs{filepath.Join(dir, "rendezvous"+suffix), filepath.Join(dir, "grid"+suffix)}
	for _, name := range []string{p.rendezvous, p.grid} {
		if _, err := exec.LookPath(name); err != nil {
			return p, &cli.Error{
				Object: name,
				Cause:  "the demo runs this program, and it is not there",
				Next:   "build all four with make build, or use the simulator: netsim demo --backend sim",
				Err:    err,
			}
		}
	}
	return p, nil
}

// partTime bounds one part of the demo, with a second more for each partRate
// bytes.
const (
	partTime = 40 * time.Second
	partRate = 2 << 20
)

// rendezvousDocument is what the demo reads of "instantgrid/rendezvous/1".
type rendezvousDocument struct {
	Address string `json:"address"`
	Claim   string `json:"claim"`
}

// gridDocument is what the demo reads of "instantgrid/send/1" and
// "instantgrid/recv/1".
type gridDocument struct {
	Event       string   `json:"event"`
	Token       string   `json:"token"`
	Bytes       int64    `json:"bytes"`
	SHA256      string   `json:"sha256"`
	Seconds     float64  `json:"seconds"`
	FirstByteMS *float64 `json:"first_byte_ms"`
	DirectMS    *float64 `json:"direct_ms"`
	Path        string   `json:"path"`
	Reason      string   `json:"reason"`
	Advice      string   `json:"advice"`
}

// demo carries a part out in network namespaces: a rendezvous, a sender that
// prints a token, and a receiver that is given it.
func (p programs) demo(ctx context.Context, part demoPart, dir string, progress func(int64, string)) (row demoRow, err error) {
	from, to, err := sendersOf(part.Scenario, "", "")
	if err != nil {
		return row, err
	}
	network, err := kernel.Start(part.Scenario)
	if err != nil {
		return row, err
	}
	defer network.Close()
	ctx, cancel := context.WithTimeout(ctx, partTime+time.Duration(part.Bytes/partRate)*time.Second)
	defer cancel()

	public := network.Host(rendezvousHost).Addr().String()
	server, err := startProgram(ctx, network, rendezvousHost, p.rendezvous,
		"--json", "--admit", "open", "--dir", filepath.Join(dir, "rendezvous"),
		"--listen", public+":3478", "--stun-listen", public+":3479", "--metrics-listen", "")
	if err != nil {
		return row, err
	}
	defer server.stop()
	started, err := first[rendezvousDocument](server)
	if err != nil {
		return row, err
	}

	sender, err := startProgram(ctx, network, from, p.grid,
		"send", filepath.Join(dir, source), "--json", "--rendezvous", started.Address, "--dir", filepath.Join(dir, "from"))
	if err != nil {
		return row, err
	}
	defer sender.stop()
	offer, err := first[gridDocument](sender)
	if err != nil {
		return row, err
	}

	receiver, err := startProgram(ctx, network, to, p.grid,
		"recv", offer.Token, "--json", "--watch", "--output", dir, "--name", target, "--dir", filepath.Join(dir, "to"))
	if err != nil {
		return row, err
	}
	defer receiver.stop()
	received, err := last(receiver, func(d gridDocument) { progress(d.Bytes, d.Path) })
	if err != nil {
		return row, err
	}
	sent, err := last(sender, func(gridDocument) {})
	if err != nil {
		return row, err
	}
	for _, d := range []gridDocument{sent, received} {
		if d.Event != "done" {
			return row, fmt.Errorf("grid ended well and printed no result, but %+v", d)
		}
	}
	if sent.SHA256 != received.SHA256 {
		return row, &cli.Error{Object: "demo, grid", Cause: "sender and receiver name different SHA-256: " + sent.SHA256 + ", " + received.SHA256, Code: cli.ExitIntegrity}
	}
	row.elapsed = time.Duration(received.Seconds * float64(time.Second))
	row.firstByte, row.upAt = fromMS(received.FirstByteMS), fromMS(received.DirectMS)
	row.Path, row.Reason, row.Advice = received.Path, received.Reason, received.Advice
	return row, nil
}

// fromMS converts from milliseconds; null becomes zero.
func fromMS(ms *float64) time.Duration {
	if ms == nil {
		return 0
	}
	return time.Duration(*ms * float64(time.Millisecond))
}
