// Package examples_test runs the examples as programs, two of each, with a
// rendezvous on this computer.
package examples_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// patience bounds waits; none of these tests is about speed.
const patience = 60 * time.Second

// A stage is a rendezvous, the examples, and two directories whose nodes let each
// other in.
type stage struct {
	t          *testing.T
	ctx        context.Context
	programs   string
	rendezvous string
	dirs       [2]string
	ids        [2]string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts programs")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &stage{t: t, ctx: ctx, programs: t.TempDir()}
	build := exec.CommandContext(ctx, "go", "build", "-o", s.programs+string(filepath.Separator), "./web", "./grpc", "./chat")
	if out, err := build.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	identity := func() *ri2n.Identity {
		id, err := ri2n.NewIdentity(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	own := identity()
	meet, err := server.New(server.Config{Identity: own, Listen: []net.PacketConn{pc}, Mode: server.Open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { meet.Close() })
	s.rendezvous = rendezvous.Address{Host: "127.0.0.1", Port: uint16(pc.LocalAddr().(*net.UDPAddr).Port), Peer: own.PeerID()}.String()
	for i := range s.dirs {
		s.dirs[i] = t.TempDir()
		id, err := overlay.LoadIdentity(s.dirs[i])
		if err != nil {
			t.Fatal(err)
		}
		s.ids[i] = id.PeerID().String()
	}
	return s
}

// command is an example under one of the two identities.
func (s *stage) command(i int, name string, args ...string) *exec.Cmd {
	flags := []string{"-dir", s.dirs[i], "-rendezvous", s.rendezvous, "-allow", s.ids[1-i]}
	cmd := exec.CommandContext(s.ctx, filepath.Join(s.programs, name), append(flags, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// start runs a program until the test ends; it has said who it is when start
// returns.
func (s *stage) start(cmd *exec.Cmd) {
	s.t.Helper()
	said, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewReader(said)
	line, err := lines.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "peer ID ") {
		s.t.Errorf("%v says %q, %v", cmd.Args, line, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		more, _ := io.ReadAll(lines)
		cmd.Wait()
		if cmd.ProcessState.ExitCode() != 0 {
			s.t.Errorf("%v: %v\n%s", cmd.Args, cmd.ProcessState, more)
		}
	}()
	s.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			s.t.Errorf("%v does not end", cmd.Args)
			cmd.Process.Kill()
		}
	})
}

// output runs a program to its end.
func (s *stage) output(cmd *exec.Cmd) string {
	s.t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", cmd.Args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func TestExamples(t *testing.T) {
	s := newStage(t)
	t.Run("web", func(t *testing.T) {
		s := *s
		s.t = t
		s.start(s.command(0, "web", "serve"))
		if got := s.output(s.command(1, "web", "get", "http://"+s.ids[0]+"/")); !strings.HasPrefix(got, "hello "+s.ids[1]) || !strings.HasSuffix(got, "over HTTP/2.0") {
			t.Errorf("web get prints %q", got)
		}
	})
	t.Run("grpc", func(t *testing.T) {
		s := *s
		s.t = t
		s.start(s.command(0, "grpc", "serve"))
		if got := s.output(s.command(1, "grpc", "count", s.ids[0], "one two three")); got != "3 words" {
			t.Errorf("grpc count prints %q", got)
		}
	})
	t.Run("chat", func(t *testing.T) {
		s := *s
		s.t = t
		listener, speaker := s.command(0, "chat", s.ids[1]), s.command(1, "chat", s.ids[0])
		heard, err := listener.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		say, err := speaker.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		s.start(listener)
		s.start(speaker)
		line := make(chan string, 1)
		go func() {
			text, _ := bufio.NewReader(heard).ReadString('\n')
			line <- text
		}()
		for {
			io.WriteString(say, "good evening\n") // packets may be lost
			select {
			case got := <-line:
				if !strings.HasSuffix(got, ": good evening\n") {
					t.Errorf("chat prints %q", got)
				}
				return
			case <-time.After(200 * time.Millisecond):
			case <-s.ctx.Done():
				t.Fatal("nothing arrives")
			}
		}
	})
}
