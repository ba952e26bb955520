package ri2n

import (
	"crypto/tls"
	"sync/atomic"
	"time"
)

// Key updates (docs/wire-format.md, key update). One pair of keys serves all
// paths, so packets are counted over all of them.
const (
	updateKeysAfter    = 1 << 22     // packets; half the AES-GCM limit (RFC 9001, section 6.6)
	maxKeyPackets      = 1<<23 - 256 // with what a burst may add, below 2^23
	maxForgeries       = 1 << 52     // AES-GCM (RFC 9001, section 6.6)
	maxForgeriesChaCha = 1 << 36

	// closeReserve are packets beyond maxKeyPackets that may say why the
	// session ended.
	closeReserve = 64
)

// A keyGeneration is the receive keys of one phase with their neighbours.
type keyGeneration struct {
	count         uint64 // key updates so far
	phase         bool   // the low bit of count
	keys          *packetKeys
	nextSecret    []byte
	next          atomic.Pointer[packetKeys] // nil until a packet wants them; see nextKeys
	previous      *packetKeys                // nil: none any more
	previousUntil time.Time
	since, before time.Time // of the update that brought it, and of the one before; zero: none
}

// nextKeys returns the keys of the phase after this one. They are derived once,
// for the first packet of the other phase, forged or not: few sessions live to
// see an update, and all would hold a kilobyte for it.
func (g *keyGeneration) nextKeys(suite uint16) (*packetKeys, error) {
	if k := g.next.Load(); k != nil {
		return k, nil
	}
	k, err := newPacketKeys(suite, g.nextSecret)
	if err != nil {
		return nil, err
	}
	if !g.next.CompareAndSwap(nil, k) { // another reader was faster
		k = g.next.Load()
	}
	return k, nil
}

// receiveKeys opens packets. Readers of several links use it at once; only
// the session replaces the generation.
type receiveKeys struct {
	suite     uint16
	current   atomic.Pointer[keyGeneration]
	forgeries atomic.Uint64
	most      uint64 // forgeries after which the keys must not be used
}

func (k *receiveKeys) init(suite uint16, secret []byte) error {
	keys, err := newPacketKeys(suite, secret)
	if err != nil {
		return err
	}
	k.suite, k.most = suite, maxForgeries
	if suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		k.most = maxForgeriesChaCha
	}
	k.current.Store(&keyGeneration{keys: keys, nextSecret: nextSecret(suite, secret)})
	return nil
}

// open decrypts packet in place. It returns the number of key updates before
// the keys that opened it: when that is more than the session knows of, the
// peer has moved on.
func (k *receiveKeys) open(packet []byte, h shortHeader, path pathID, number packetNumber) (payload []byte, updates uint64, err error) {
	g := k.current.Load()
	if h.keyPhase == g.phase {
		payload, err = g.keys.open(packet, shortHeaderLen, path, number)
		if err != nil {
			k.forgeries.Add(1)
		}
		return payload, g.count, err
	}
	// Rare: a failed attempt destroys its input, so each has its own copy.
	if g.previous != nil {
		attempt := append([]byte(nil), packet...)
		if payload, err = g.previous.open(attempt, shortHeaderLen, path, number); err == nil {
			return payload, g.count - 1, nil
		}
	}
	next, err := g.nextKeys(k.suite)
	if err != nil {
		return nil, 0, err
	}
	attempt := append([]byte(nil), packet...)
	if payload, err = next.open(attempt, shortHeaderLen, path, number); err == nil {
		return payload, g.count + 1, nil
	}
	k.forgeries.Add(1)
	return nil, 0, err
}

// rotate moves to the next phase; the old keys serve late packets for keep.
// The session's mutex is held.
func (k *receiveKeys) rotate(now time.Time, keep time.Duration) error {
	g := k.current.Load()
	keys, err := g.nextKeys(k.suite)
	if err != nil {
		return err
	}
	k.current.Store(&keyGeneration{
		count: g.count + 1, phase: !g.phase, keys: keys, nextSecret: nextSecret(k.suite, g.nextSecret),
		previous: g.keys, previousUntil: now.Add(keep), since: now, before: g.since,
	})
	return nil
}

// expire forgets the old keys once their time is over.
func (k *receiveKeys) expire(now time.Time) {
	g := k.current.Load()
	if g.previous != nil && !now.Before(g.previousUntil) {
		trimmed := &keyGeneration{count: g.count, phase: g.phase, keys: g.keys, nextSecret: g.nextSecret}
		trimmed.next.Store(g.next.Load())
		k.current.Store(trimmed)
	}
}

// sendKeys seals packets. The session's mutex guards all but the keys
// themselves, which a burst takes with it.
type sendKeys struct {
	suite     uint16
	phase     bool
	keys      *packetKeys
	secret    []byte
	packets   uint64 // sealed under keys, on all paths
	most      uint64 // packets after which to update
	rotatedAt time.Time
	updates   uint64
	confirmed bool // the peer has acknowledged a packet of this phase
}

func (k *sendKeys) init(suite uint16, secret []byte) (err error) {
	k.suite, k.secret, k.confirmed = suite, secret, true
	k.most = updateKeysAfter
	k.keys, err = newPacketKeys(suite, secret)
	return err
}

func (k *sendKeys) rotate(now time.Time) error {
	secret := nextSecret(k.suite, k.secret)
	keys, err := newPacketKeys(k.suite, secret)
	if err != nil {
		return err
	}
	k.secret, k.keys, k.phase = secret, keys, !k.phase
	k.packets, k.rotatedAt, k.confirmed = 0, now, false
	k.updates++
	return nil
}
