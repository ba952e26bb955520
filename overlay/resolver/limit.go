package resolver

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A limiter grants each network a number of answers a second.
type limiter struct {
	mu      sync.Mutex // guards what follows
	buckets map[netip.Prefix]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// allow takes one answer from the network of a client. More networks at once
// than are told apart get none.
func (l *limiter) allow(now time.Time, client netip.Addr) bool {
	bits := 56
	if client.Is4() {
		bits = 24
	}
	network, err := client.Prefix(bits)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[network]
	if b == nil {
		if len(l.buckets) >= maxClients {
			for key, old := range l.buckets {
				if now.Sub(old.at) >= clientBurst/clientRate*time.Second {
					delete(l.buckets, key) // it is full again
				}
			}
			if len(l.buckets) >= maxClients {
				return false
			}
		}
		if l.buckets == nil {
			l.buckets = make(map[netip.Prefix]*bucket)
		}
		b = &bucket{clientBurst, now}
		l.buckets[network] = b
	}
	b.left = min(clientBurst, b.left+now.Sub(b.at).Seconds()*clientRate)
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// A limited listener has at most so many connections open; others wait to be
// accepted.
type limited struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimited(ln net.Listener, n int) *limited {
	return &limited{Listener: ln, places: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, l: l}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	l    *limited
	once sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { <-c.l.places })
	return c.Conn.Close()
}
