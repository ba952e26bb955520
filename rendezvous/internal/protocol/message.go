package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Version is the one protocol version that this package speaks.
const Version = 1

const (
	headerLen   = 3   // kind, length
	maxBody     = 512 // bytes; a longer message closes the session
	maxSoftware = 64  // bytes of Hello.Software
	maxText     = 256 // bytes of Error.Text
)

var (
	// ErrMalformed reports bytes that no append function produces.
	ErrMalformed = errors.New("rendezvous: malformed message")
	errShort     = fmt.Errorf("%w: cut short", ErrMalformed)
)

// Kinds of message (docs/rendezvous-protocol.md, section 3). Kinds from
// firstExtension on are skipped by a receiver that does not know them.
const (
	kindHello      = 0x01
	kindRegister   = 0x02
	kindRegistered = 0x03
	kindOpen       = 0x04
	kindOpened     = 0x05
	kindIncoming   = 0x06
	kindRefused    = 0x07
	kindClosed     = 0x08
	kindMaxSize    = 0x09
	kindDeposit    = 0x0a
	kindAdmit      = 0x0b
	kindOK         = 0x0c
	kindError      = 0x0d
	firstExtension = 0x40
	kindAsk        = 0x40
	kindAnswer     = 0x41
	kindTime       = 0x43
	kindShow       = 0x44
	kindShown      = 0x45
)

// A Message travels on the control stream, in one direction or both.
type Message interface {
	kind() byte
	appendBody(b []byte) []byte
}

// Hello is the first message in either direction.
type Hello struct {
	Version  uint16 // highest version spoken; the server's answer names the one used
	Software string // for operators' eyes, at most 64 bytes of UTF-8
}

// Register asks to be found under the peer ID that the session has proven, and
// refreshes that.
type Register struct {
	Sequence uint32 // echoed in the answer, which measures the round trip
}

// Registered answers Register.
type Registered struct {
	Sequence      uint32
	Observed      netip.AddrPort // where the server sees the agent; invalid: not known
	Lifetime      time.Duration  // whole seconds until the registration is forgotten
	STUN          uint16         // port that answers Bindings beside sessions
	AlternateSTUN uint16         // a second one; zero: none
}

// Open asks for a channel to target. Numbers of an agent's own channels are
// even, grow within a session and are never used twice.
type Open struct {
	Channel    uint64
	Key        uint64 // names the channel across sessions, together with its source
	Generation uint64 // counts the openings of Key, from 1
	Target     ri2n.PeerID
}

// Opened answers Open.
type Opened struct {
	Channel uint64
	Size    uint16 // largest packet, in bytes
}

// Incoming announces a channel that source opened toward the receiver. Its
// number is the server's choice and odd.
type Incoming struct {
	Channel    uint64
	Key        uint64
	Generation uint64
	Source     ri2n.PeerID
	Size       uint16
}

// Refused answers Open: the channel does not exist.
type Refused struct {
	Channel uint64
	Reason  Reason
}

// Closed ends a channel. Either side sends it; there is no answer.
type Closed struct {
	Channel uint64
	Reason  Reason
}

// MaxSize changes the largest packet of a channel.
type MaxSize struct {
	Channel uint64
	Size    uint16
}

// Deposit makes the server admit one guest, the first to show the key that
// Digest is the SHA-256 of.
type Deposit struct {
	Request uint32
	Digest  [32]byte
	Expiry  time.Time // whole seconds
}

// Admit shows the key of a deposit.
type Admit struct {
	Request uint32
	Key     [32]byte
}

// OK answers Deposit and Admit.
type OK struct{ Request uint32 }

// Error answers Deposit and Admit, and with Request zero ends the session.
type Error struct {
	Request uint32
	Reason  Reason
	Text    string // for people, at most 256 bytes of UTF-8
}

// Ask carries a part of a question to the ledger, and Answer one of the answer.
// The parts of one question follow each other; the last one says so.
type Ask struct {
	Request uint32
	More    bool // another part follows
	Data    []byte
}

// Answer answers Ask.
type Answer struct {
	Request uint32
	More    bool
	Data    []byte
}

// Time goes before each Registered: what the server's clock said when it sent
// it, so that an agent notices when its own is wrong.
type Time struct {
	Now time.Time // whole milliseconds
}

// Show asks the server to tell the other end of a channel where it sees the
// sender, which proves that address to the peer.
type Show struct{ Channel uint64 }

// Shown tells where the server sees the other end of a channel, as that end
// has asked for.
type Shown struct {
	Channel uint64
	Addr    netip.AddrPort
}

// Unknown is a message of a later version that may be skipped.
type Unknown struct {
	Kind byte // 0x40 or above
	Body []byte
}

func (Hello) kind() byte      { return kindHello }
func (Register) kind() byte   { return kindRegister }
func (Registered) kind() byte { return kindRegistered }
func (Open) kind() byte       { return kindOpen }
func (Opened) kind() byte     { return kindOpened }
func (Incoming) kind() byte   { return kindIncoming }
func (Refused) kind() byte    { return kindRefused }
func (Closed) kind() byte     { return kindClosed }
func (MaxSize) kind() byte    { return kindMaxSize }
func (Deposit) kind() byte    { return kindDeposit }
func (Admit) kind() byte      { return kindAdmit }
func (OK) kind() byte         { return kindOK }
func (Error) kind() byte      { return kindError }
func (Ask) kind() byte        { return kindAsk }
func (Answer) kind() byte     { return kindAnswer }
func (Time) kind() byte       { return kindTime }
func (Show) kind() byte       { return kindShow }
func (Shown) kind() byte      { return kindShown }
func (m Unknown) kind() byte  { return m.Kind }

func (m Hello) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.Version)
	return append(b, clip(m.Software, maxSoftware)...)
}

func (m Register) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, m.Sequence)
}

func (m Registered) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.Sequence)
	b = binary.BigEndian.AppendUint16(b, uint16(min(m.Lifetime/time.Second, 1<<16-1)))
	b = binary.BigEndian.AppendUint16(b, m.STUN)
	b = binary.BigEndian.AppendUint16(b, m.AlternateSTUN)
	if !m.Observed.IsValid() {
		return b
	}
	b = append(b, m.Observed.Addr().Unmap().WithZone("").AsSlice()...)
	return binary.BigEndian.AppendUint16(b, m.Observed.Port())
}

func (m Open) appendBody(b []byte) []byte {
	b = AppendVarint(b, m.Channel)
	b = binary.BigEndian.AppendUint64(b, m.Key)
	b = AppendVarint(b, m.Generation)
	return append(b, m.Target[:]...)
}

func (m Opened) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint16(AppendVarint(b, m.Channel), m.Size)
}

func (m Incoming) appendBody(b []byte) []byte {
	b = AppendVarint(b, m.Channel)
	b = binary.BigEndian.AppendUint64(b, m.Key)
	b = AppendVarint(b, m.Generation)
	b = append(b, m.Source[:]...)
	return binary.BigEndian.AppendUint16(b, m.Size)
}

func (m Refused) appendBody(b []byte) []byte {
	return append(AppendVarint(b, m.Channel), byte(m.Reason))
}

func (m Closed) appendBody(b []byte) []byte {
	return append(AppendVarint(b, m.Channel), byte(m.Reason))
}

func (m MaxSize) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint16(AppendVarint(b, m.Channel), m.Size)
}

func (m Deposit) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.Request)
	b = append(b, m.Digest[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(m.Expiry.Unix()))
}

func (m Admit) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, m.Request), m.Key[:]...)
}

func (m OK) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, m.Request)
}

func (m Error) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.Request)
	return append(append(b, byte(m.Reason)), clip(m.Text, maxText)...)
}

func (m Ask) appendBody(b []byte) []byte    { return appendPart(b, m.Request, m.More, m.Data) }
func (m Answer) appendBody(b []byte) []byte { return appendPart(b, m.Request, m.More, m.Data) }

func (m Time) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(m.Now.UnixMilli()))
}

func (m Show) appendBody(b []byte) []byte { return AppendVarint(b, m.Channel) }

func (m Shown) appendBody(b []byte) []byte {
	b = AppendVarint(b, m.Channel)
	b = append(b, m.Addr.Addr().Unmap().WithZone("").AsSlice()...)
	return binary.BigEndian.AppendUint16(b, m.Addr.Port())
}

func (m Unknown) appendBody(b []byte) []byte { return append(b, m.Body...) }

// clip returns the longest prefix of s that is whole UTF-8 and at most n bytes.
func clip(s string, n int) string {
	for len(s) > n || !utf8.ValidString(s) {
		s = s[:min(len(s)-1, n)]
	}
	return s
}

// Append extends b by m with its header.
func Append(b []byte, m Message) []byte {
	start := len(b)
	b = m.appendBody(append(b, m.kind(), 0, 0))
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-headerLen))
	return b
}

// Parse decodes the message at the front of b and returns the bytes after it.
// What it returns shares no memory with b.
func Parse(b []byte) (m Message, rest []byte, err error) {
	if len(b) < headerLen {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n > maxBody {
		return nil, nil, fmt.Errorf("%w: body of %d bytes, at most %d", ErrMalformed, n, maxBody)
	}
	if len(b) < headerLen+n {
		return nil, nil, errShort
	}
	m, err = parseBody(b[0], b[headerLen:headerLen+n])
	if err != nil {
		return nil, nil, err
	}
	return m, b[headerLen+n:], nil
}

// Read reads one message from a control stream. It holds at most one message
// in memory. The error is [ErrMalformed], or the stream's own; io.EOF only
// between messages.
func Read(r io.Reader) (Message, error) {
	var buf [headerLen + maxBody]byte
	if _, err := io.ReadFull(r, buf[:headerLen]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf[1:]))
	if n > maxBody {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", ErrMalformed, n, maxBody)
	}
	if _, err := io.ReadFull(r, buf[headerLen:headerLen+n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return parseBody(buf[0], buf[headerLen:headerLen+n])
}

// parseBody decodes a whole body.
func parseBody(kind byte, b []byte) (Message, error) {
	p := parser{b: b}
	var m Message
	switch kind {
	case kindHello:
		m = Hello{Version: p.uint16(), Software: p.text(maxSoftware)}
	case kindRegister:
		m = Register{Sequence: p.uint32()}
	case kindRegistered:
		m = Registered{
			Sequence:      p.uint32(),
			Lifetime:      time.Duration(p.uint16()) * time.Second,
			STUN:          p.uint16(),
			AlternateSTUN: p.uint16(),
			Observed:      p.addrPort(),
		}
	case kindOpen:
		m = Open{Channel: p.varint(), Key: p.uint64(), Generation: p.varint(), Target: p.array32()}
	case kindOpened:
		m = Opened{Channel: p.varint(), Size: p.uint16()}
	case kindIncoming:
		m = Incoming{Channel: p.varint(), Key: p.uint64(), Generation: p.varint(), Source: p.array32(), Size: p.uint16()}
	case kindRefused:
		m = Refused{Channel: p.varint(), Reason: Reason(p.byte())}
	case kindClosed:
		m = Closed{Channel: p.varint(), Reason: Reason(p.byte())}
	case kindMaxSize:
		m = MaxSize{Channel: p.varint(), Size: p.uint16()}
	case kindDeposit:
		m = Deposit{Request: p.uint32(), Digest: p.array32(), Expiry: p.seconds()}
	case kindAdmit:
		m = Admit{Request: p.uint32(), Key: p.array32()}
	case kindOK:
		m = OK{Request: p.uint32()}
	case kindError:
		m = Error{Request: p.uint32(), Reason: Reason(p.byte()), Text: p.text(maxText)}
	case kindAsk:
		request, more, data := p.part()
		m = Ask{Request: request, More: more, Data: data}
	case kindAnswer:
		request, more, data := p.part()
		m = Answer{Request: request, More: more, Data: data}
	case kindTime:
		m = Time{Now: p.milliseconds()}
	case kindShow:
		m = Show{Channel: p.varint()}
	case kindShown:
		shown := Shown{Channel: p.varint(), Addr: p.addrPort()}
		if p.err == nil && !shown.Addr.IsValid() {
			p.err = errShort
		}
		m = shown
	default:
		if kind < firstExtension {
			return nil, fmt.Errorf("%w: unknown kind %#02x", ErrMalformed, kind)
		}
		return Unknown{Kind: kind, Body: append([]byte(nil), b...)}, nil
	}
	if p.err == nil && len(p.b) > 0 {
		p.err = fmt.Errorf("%w: %d bytes after a message of kind %#02x", ErrMalformed, len(p.b), kind)
	}
	if p.err != nil {
		return nil, p.err
	}
	return m, nil
}

// A parser takes fields from the front of b; the first failure sticks.
type parser struct {
	b   []byte
	err error
}

// take returns the next n bytes, or nil once anything has failed.
func (p *parser) take(n int) []byte {
	if p.err == nil && len(p.b) < n {
		p.err = errShort
	}
	if p.err != nil {
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint16() uint16 {
	if b := p.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (p *parser) uint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *parser) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *parser) array32() (a [32]byte) {
	copy(a[:], p.take(32))
	return a
}

func (p *parser) varint() uint64 {
	if p.err != nil {
		return 0
	}
	v, rest, err := ParseVarint(p.b)
	if err != nil {
		p.err = err
		return 0
	}
	p.b = rest
	return v
}

// maxSeconds keeps times within what every part of the package time can add to.
const maxSeconds = 1 << 40

func (p *parser) seconds() time.Time {
	s := p.uint64()
	if p.err == nil && s > maxSeconds {
		p.err = fmt.Errorf("%w: time %d out of range", ErrMalformed, s)
	}
	if p.err != nil {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

// maxMilliseconds does the same for a clock, which is compared with ours.
const maxMilliseconds = 1 << 51

func (p *parser) milliseconds() time.Time {
	ms := p.uint64()
	if p.err == nil && ms > maxMilliseconds {
		p.err = fmt.Errorf("%w: time %d out of range", ErrMalformed, ms)
	}
	if p.err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

// text takes the rest as UTF-8 of at most limit bytes.
func (p *parser) text(limit int) string {
	if p.err != nil {
		return ""
	}
	if len(p.b) > limit || !utf8.Valid(p.b) {
		p.err = fmt.Errorf("%w: text of %d bytes", ErrMalformed, len(p.b))
		return ""
	}
	return string(p.take(len(p.b)))
}

// addrPort takes the rest as nothing, an IPv4 or an IPv6 transport address.
func (p *parser) addrPort() netip.AddrPort {
	if p.err != nil || len(p.b) == 0 {
		return netip.AddrPort{}
	}
	if len(p.b) != 4+2 && len(p.b) != 16+2 {
		p.err = fmt.Errorf("%w: transport address of %d bytes", ErrMalformed, len(p.b))
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(p.take(len(p.b) - 2))
	if addr.Is4In6() {
		p.err = fmt.Errorf("%w: IPv4 address in IPv6 form", ErrMalformed)
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, p.uint16())
}
