package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// childMode names the environment variable that makes the test binary play a
// process of one of the tests below.
const childMode = "KERNEL_TEST_CHILD"

// runChild plays the process that the environment asks for, if any.
func runChild() bool {
	switch os.Getenv(childMode) {
	case "":
		return false
	case "start":
		_, err := Start(netsim.Scenario{Hosts: []netsim.HostNode{{Name: "a"}}})
		fmt.Println(errors.Is(err, ErrNotPermitted))
		fmt.Println(err)
	case "addresses":
		addrs, err := net.InterfaceAddrs()
		addrs = slices.DeleteFunc(addrs, func(a net.Addr) bool { return strings.Contains(a.String(), ":") })
		fmt.Println(addrs, err)
	case "send":
		conn, err := net.Dial("udp4", os.Getenv("TO"))
		if err == nil {
			_, err = conn.Write([]byte("from a process"))
		}
		fmt.Println(err)
	case "wait":
		time.Sleep(time.Minute)
	case "crash":
		fmt.Println(holdNetwork())
		time.Sleep(time.Minute)
	}
	return true
}

// holdNetwork starts a network and a process in it, and returns the process
// ID and the names of the namespaces.
func holdNetwork() string {
	n, err := Start(twoHomes(portRestricted, symmetric))
	if err != nil {
		return err.Error()
	}
	cmd := n.Host("a").(*Host).Command(context.Background(), "/proc/self/exe")
	cmd.Env = []string{childMode + "=wait"}
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	line := strconv.Itoa(cmd.Process.Pid)
	for _, nd := range n.nodes {
		nd.ns.do(func() error {
			name, err := os.Readlink("/proc/thread-self/ns/net")
			line += " " + name
			return err
		})
	}
	return line
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childMode+"=crash")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) != 7 {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("child said %q, %v", line, err)
	}
	before := users(fields[1:])
	cmd.Process.Kill()
	cmd.Wait()
	if len(before) == 0 {
		t.Error("nobody used the namespaces while the child ran")
	}
	inside, _ := strconv.Atoi(fields[0])
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := users(fields[1:])
		if len(left) == 0 && syscall.Kill(inside, 0) != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still used by %v; process %d inside", left, inside)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// users returns the threads that live in one of the namespaces and the mounts
// and descriptors that hold one.
func users(namespaces []string) []string {
	var found []string
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			if target, err := os.Readlink(p); err == nil && slices.Contains(namespaces, target) {
				found = append(found, p)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, ns := range namespaces {
		if strings.Contains(string(mounts), ns) {
			found = append(found, "mount of "+ns)
		}
	}
	return found
}

func TestCommandRunsInsideHost(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	host := n.Host("a").(*Host)
	child := func(mode string, env ...string) *Cmd {
		cmd := host.Command(t.Context(), "/proc/self/exe")
		cmd.Env = append(env, childMode+"="+mode)
		return cmd
	}
	out, err := child("addresses").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("[127.0.0.1/8 %v/32] <nil>\n", host.Addr()); string(out) != want {
		t.Errorf("the process sees %q, want %q", out, want)
	}

	s := listen(t, n, "server", 3478)
	out, err = child("send", "TO="+s.addr().String()).CombinedOutput()
	if err != nil || string(out) != "<nil>\n" {
		t.Fatalf("the process could not send: %s, %v", out, err)
	}
	plan, _ := twoHomes(portRestricted, symmetric).Addresses()
	if text, from := s.receive(); text != "from a process" || from.Addr() != plan["home-a"].Addr {
		t.Errorf("received %q from %v, want it from %v", text, from, plan["home-a"].Addr)
	}
}

func TestCloseKillsCommands(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	cmd := n.Host("a").(*Host).Command(t.Context(), "/proc/self/exe")
	cmd.Env = []string{childMode + "=wait"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.Close()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want it killed", err)
	}
}

func TestCloseClosesSockets(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	host := n.Host("server").(*Host)
	udp := listen(t, n, "server", 0)
	l, err := host.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error, 2)
	go func() {
		_, _, err := udp.ReadFrom(make([]byte, 1))
		received <- err
	}()
	go func() {
		_, err := l.Accept()
		received <- err
	}()
	for range 2 {
		n.Close()
	}
	for range 2 {
		if err := <-received; !errors.Is(err, net.ErrClosed) {
			t.Errorf("blocked call returned %v, want net.ErrClosed", err)
		}
	}
	if _, err := host.ListenPacket(t.Context(), 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ListenPacket returned %v, want net.ErrClosed", err)
	}
	if _, err := host.Dial(t.Context(), netip.MustParseAddrPort("5.1.1.10:1")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial returned %v, want net.ErrClosed", err)
	}
	if err := n.SetUplink("a", netsim.Link{Cut: true}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetUplink returned %v, want net.ErrClosed", err)
	}
	if err := n.Reboot("home-a"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Reboot returned %v, want net.ErrClosed", err)
	}
}

func TestCloseEndsDial(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	dialed := make(chan error, 1)
	go func() {
		_, err := n.Host("a").(*Host).Dial(context.Background(), netip.MustParseAddrPort("5.255.255.255:1"))
		dialed <- err
	}()
	for { // until its SYN has reached the core, where nobody is
		if noRoute, _ := n.CoreDrops(); noRoute > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	n.Close()
	if err := <-dialed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial returned %v, want net.ErrClosed", err)
	}
}

func TestClosedSocketsAreForgotten(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	host := n.Host("server").(*Host)
	for range 200 {
		conn, err := host.ListenPacket(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if got := len(host.sockets); got > 20 {
		t.Errorf("%d closed sockets are held, want at most 20", got)
	}
}

func TestNoThreadStaysInside(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	var names []string
	for _, nd := range n.nodes {
		nd.ns.do(func() error {
			name, err := os.Readlink("/proc/thread-self/ns/net")
			names = append(names, name)
			return err
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	n.Host("a").(*Host).Dial(ctx, netip.MustParseAddrPort("5.9.9.9:1")) // nobody there
	n.Close()
	deadline := time.Now().Add(10 * time.Second)
	for len(users(names)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still used by %v", users(names))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTCP(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{Delay: 5 * time.Millisecond}))
	l, err := n.Host("server").(*Host).Listen(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const size = 1 << 20
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Write(make([]byte, size))
			conn.Close()
		}
		done <- err
	}()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	conn, err := n.Host("a").(*Host).Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.Copy(io.Discard, conn)
	if err != nil || got != size {
		t.Errorf("received %d bytes, %v, want %d", got, err, size)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An ordinary user is told in one line what is needed.
func TestNotRoot(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	if os.Geteuid() == 0 {
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = "/"
	cmd.Env = []string{childMode + "=start"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != 2 || lines[0] != "true" || !strings.Contains(lines[1], "root") {
		t.Errorf("got %q, want true and one line that asks for root", lines)
	}
	t.Log(lines[len(lines)-1])
}
