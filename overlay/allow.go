package overlay

import (
	"errors"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An allowList holds the peers that may connect. It is safe for concurrent
// use.
type allowList struct {
	dir directory

	mu    sync.Mutex // guards what follows
	peers map[ri2n.PeerID]struct{}
	file  []byte // content of the allow file
}

var errNotPeerID = errors.New("this is not a peer ID of 52 letters and digits")

// loadAllowList reads the allow file: one peer ID on a line, comments after #.
func loadAllowList(dir directory, more []ri2n.PeerID) (*allowList, error) {
	l := &allowList{dir: dir, peers: make(map[ri2n.PeerID]struct{})}
	err := dir.lines(fileAllow, func(line string) error {
		id, err := ri2n.ParsePeerID(line)
		if err != nil {
			return errNotPeerID
		}
		l.peers[id] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if l.file, err = dir.read(fileAllow); err != nil {
		return nil, err
	}
	for _, id := range more {
		l.peers[id] = struct{}{}
	}
	return l, nil
}

func (l *allowList) has(id ri2n.PeerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.peers[id]
	return ok
}

// add allows id and stores that.
func (l *allowList) add(id ri2n.PeerID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.peers[id]; known {
		return nil
	}
	if l.dir != "" {
		file := append([]byte(nil), l.file...)
		if len(file) > 0 && file[len(file)-1] != '\n' {
			file = append(file, '\n')
		}
		file = append(append(file, id.String()...), '\n')
		if err := l.dir.write(fileAllow, file); err != nil {
			return err
		}
		l.file = file
	}
	l.peers[id] = struct{}{}
	return nil
}

// Allow admits peer from now on, and stores that when the node has a Dir.
func (n *Node) Allow(peer ri2n.PeerID) error {
	if peer.IsZero() {
		return &AddressError{Text: peer.String(), Problem: "it names nobody"}
	}
	return n.allowed.add(peer)
}

// errNotAllowed refuses a session. The peer sees ri2n.ErrRefused.
var errRevoked = errors.New("overlay: peer is revoked")

var errNotAllowed = errors.New("overlay: peer is not on the allow list")

// trusts reports whether peer needs to show nothing: it is allowed, has used a
// token, or is a member of our grid that we know.
func (n *Node) trusts(peer ri2n.PeerID) bool {
	if n.grid.isRevoked(peer) {
		return false
	}
	now := time.Now()
	return n.allowed.has(peer) || n.invitations.isGuest(peer) || n.grid.memberOf(now, peer) != nil && n.grid.welcomes(now)
}

// mayOpen reports whether peer may connect to a port of ours. What was allowed
// by its peer ID may connect to all, a member to those that the policy opens.
func (n *Node) mayOpen(peer ri2n.PeerID, port uint16) bool {
	return n.allowed.has(peer) || n.invitations.isGuest(peer) || n.grid.opens(time.Now(), peer, port)
}

// admits reports whether peer may try to open a session: it is trusted, or may
// be the holder of a token that nobody has used.
func (n *Node) admits(peer ri2n.PeerID) bool {
	if n.grid.isRevoked(peer) {
		return false
	}
	return n.trusts(peer) || n.invitations.expects(peer) || n.grid.expects(time.Now())
}

// authorize decides on a handshake worker.
func (n *Node) authorize(peer ri2n.PeerID) error {
	if n.grid.isRevoked(peer) {
		n.counters.revokedRefused.Add(1)
		return errRevoked
	}
	if n.trusts(peer) || n.invitations.reserve(peer) || n.grid.reserve(time.Now(), peer) {
		return nil
	}
	n.counters.peersRefused.Add(1)
	return errNotAllowed
}
