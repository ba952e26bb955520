package swarm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/internal/frame"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Frames (docs/store-protocol.md, section 1): kind, length, body.
const (
	frameHeaderLen = frame.HeaderLen
	maxData        = 64 << 10 // bytes in one DATA
	maxBody        = 40 << 10 // bytes of any other body

	protocolVersion = 1
)

type frameKind byte

const (
	frameHello  frameKind = 0x01 // both: opens the connection
	frameWant   frameKind = 0x02 // tell me which of these you hold, now and later
	frameHeld   frameKind = 0x03 // those I hold now
	frameHave   frameKind = 0x04 // those I hold since
	frameClaim  frameKind = 0x05 // those I am fetching
	frameForget frameKind = 0x06 // tell me no more
	frameEnd    frameKind = 0x07 // I shall not get any more of these
	frameAsk    frameKind = 0x10 // send me a chunk
	frameCancel frameKind = 0x11 // do not, unless you have begun
	frameChunk  frameKind = 0x12 // its DATA follows
	frameData   frameKind = 0x13 // a part of it
	frameMiss   frameKind = 0x14 // it does not come
	frameKeep   frameKind = 0x20 // take a chunk from me and keep it
	frameDrop   frameKind = 0x21 // it need not be kept
	frameKept   frameKind = 0x22 // the answer to both
	frameSample frameKind = 0x23 // show me a part of a chunk
	framePart   frameKind = 0x24 // the part
	frameBeat   frameKind = 0x30 // I am here
	frameBye    frameKind = 0x31 // why the connection ends
)

const (
	listSize   = 1024 // IDs in a WANT
	maxText    = 256
	maxSample  = 1024 // bytes in a PART
	bitmapSize = listSize / 8
)

// errMalformed reports bytes that no append function of ours produces, or that
// have no place where they came.
var errMalformed = errors.New("swarm: malformed bytes from the other side")

// appendFrame appends a frame whose body append extends b by.
func appendFrame(b []byte, k frameKind, body func([]byte) []byte) []byte {
	return frame.Append(b, byte(k), body)
}

// readHeader reads the header of the next frame and checks its length.
func readHeader(r *bufio.Reader) (k frameKind, n int, err error) {
	kind, size, err := frame.ReadHeader(r)
	if err != nil {
		return 0, 0, err
	}
	limit := uint32(maxBody)
	if k = frameKind(kind); k == frameData {
		limit = maxData
	}
	if size > limit {
		return 0, 0, fmt.Errorf("%w: frame %#x of %d bytes", errMalformed, kind, size)
	}
	return k, int(size), nil
}

// fields are those of a body.
type fields struct{ frame.Fields }

func (f *fields) id() chunk.ID  { return chunk.ID(f.Take(chunk.Size)) }
func (f *fields) key() [32]byte { return [32]byte(f.Take(32)) }
func (f *fields) text() string  { return f.Text(maxText) }

// end returns errMalformed unless the body was read whole and without error.
func (f *fields) end(k frameKind) error {
	if !f.Whole() {
		return fmt.Errorf("%w: body of frame %#x", errMalformed, byte(k))
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return frame.AppendText(b, s[:min(len(s), maxText)])
}

// A hello opens a connection, from both sides.
type hello struct {
	version uint16
	name    string // of the sender, for the log; who it is the connection tells
}

func (h hello) appendBody(b []byte) []byte {
	return appendText(binary.BigEndian.AppendUint16(b, h.version), h.name)
}

func parseHello(b []byte) (h hello, err error) {
	f := fields{frame.FieldsOf(b)}
	h.version, h.name = f.U16(), f.text()
	return h, f.end(frameHello)
}

// A want is a list of chunks that the sender does not hold. Later frames name
// them by the list's number and their index.
type want struct {
	list    uint32
	collect bool // fetch what your site holds of these
	ids     []chunk.ID
}

func (w want) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, w.list)
	if w.collect {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, id := range w.ids {
		b = append(b, id[:]...)
	}
	return b
}

func parseWant(b []byte) (w want, err error) {
	f := fields{frame.FieldsOf(b)}
	w.list = f.U32()
	collect := f.U8()
	w.collect = collect == 1
	f.Refuse(collect > 1)
	n := f.Left() / chunk.Size
	f.Refuse(n == 0 || n > listSize)
	for i := 0; i < n && !f.Bad(); i++ {
		w.ids = append(w.ids, f.id())
	}
	return w, f.end(frameWant)
}

// held answers a want: bit i%8 of byte i/8 stands for the i-th chunk.
type held struct {
	list   uint32
	bitmap []byte
}

func (h held) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, h.list), h.bitmap...)
}

func parseHeld(b []byte) (h held, err error) {
	f := fields{frame.FieldsOf(b)}
	h.list = f.U32()
	h.bitmap = f.Rest(bitmapSize)
	f.Refuse(len(h.bitmap) == 0)
	return h, f.end(frameHeld)
}

// indices name some chunks of a list, in rising order: HAVE and CLAIM.
type indices struct {
	list  uint32
	index []uint16
}

func (x indices) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, x.list)
	for _, i := range x.index {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func parseIndices(k frameKind, b []byte) (x indices, err error) {
	f := fields{frame.FieldsOf(b)}
	x.list = f.U32()
	n := f.Left() / 2
	f.Refuse(n == 0 || n > listSize)
	last := -1
	for range n {
		if f.Bad() {
			break
		}
		i := f.U16()
		f.Refuse(int(i) <= last || i >= listSize)
		last = int(i)
		x.index = append(x.index, i)
	}
	return x, f.end(k)
}

// A number is the whole body of FORGET, END and CANCEL.
type number uint32

func (n number) appendBody(b []byte) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

func parseNumber(k frameKind, b []byte) (n number, err error) {
	f := fields{frame.FieldsOf(b)}
	n = number(f.U32())
	return n, f.end(k)
}

// An ask asks for a chunk.
type ask struct {
	request uint32
	id      chunk.ID
}

func (a ask) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, a.request), a.id[:]...)
}

func parseAsk(b []byte) (a ask, err error) {
	f := fields{frame.FieldsOf(b)}
	a.request, a.id = f.U32(), f.id()
	return a, f.end(frameAsk)
}

// A chunkHeader says that the DATA of a chunk follows.
type chunkHeader struct {
	request, size uint32
}

func (h chunkHeader) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, h.request), h.size)
}

func parseChunkHeader(b []byte) (h chunkHeader, err error) {
	f := fields{frame.FieldsOf(b)}
	h.request, h.size = f.U32(), f.U32()
	f.Refuse(h.size == 0 || h.size > chunk.MaxSize)
	return h, f.end(frameChunk)
}

// A code says how a request ended.
type code uint8

const (
	codeDone      code = 0 // KEPT only
	codeNotHeld   code = 1
	codeWithdrawn code = 2 // as CANCEL asked
	codeBusy      code = 3 // ask for less at a time
	codeRefused   code = 4 // the node does not do this
	codeNoRoom    code = 5
	lastCode           = codeNoRoom

	// Never on the wire.
	codeWrong code = 254 // another chunk came
	codeLost  code = 255 // the connection ended
)

func (c code) String() string {
	switch c {
	case codeDone:
		return "done"
	case codeNotHeld:
		return "it is not held"
	case codeWithdrawn:
		return "withdrawn"
	case codeBusy:
		return "it is busy"
	case codeRefused:
		return "it refuses"
	case codeNoRoom:
		return "it has no room"
	case codeWrong:
		return "it sent something else"
	case codeLost:
		return "the connection was lost"
	}
	return "unknown"
}

// An answer ends a request without a chunk: MISS and KEPT.
type answer struct {
	request uint32
	code    code
}

func (a answer) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, a.request), byte(a.code))
}

func parseAnswer(k frameKind, b []byte) (a answer, err error) {
	f := fields{frame.FieldsOf(b)}
	a.request, a.code = f.U32(), code(f.U8())
	f.Refuse(a.code > lastCode || a.code == codeDone && k == frameMiss)
	return a, f.end(k)
}

// A keep asks the receiver to keep a chunk for a durable object, or to drop it.
type keep struct {
	request uint32
	object  [32]byte
	id      chunk.ID
}

func (x keep) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, x.request)
	b = append(b, x.object[:]...)
	return append(b, x.id[:]...)
}

func parseKeep(k frameKind, b []byte) (x keep, err error) {
	f := fields{frame.FieldsOf(b)}
	x.request, x.object, x.id = f.U32(), f.key(), f.id()
	return x, f.end(k)
}

// A sample asks for length bytes at offset of a chunk.
type sample struct {
	request        uint32
	id             chunk.ID
	offset, length uint32
}

func (x sample) appendBody(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint32(b, x.request), x.id[:]...)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, x.offset), x.length)
}

func parseSample(b []byte) (x sample, err error) {
	f := fields{frame.FieldsOf(b)}
	x.request, x.id, x.offset, x.length = f.U32(), f.id(), f.U32(), f.U32()
	f.Refuse(x.offset > chunk.MaxSize || x.length == 0 || x.length > maxSample)
	return x, f.end(frameSample)
}

// A part answers a sample. It is empty when the chunk is not held or shorter.
type part struct {
	request uint32
	bytes   []byte
}

func (x part) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, x.request), x.bytes...)
}

func parsePart(b []byte) (x part, err error) {
	f := fields{frame.FieldsOf(b)}
	x.request = f.U32()
	x.bytes = f.Rest(maxSample)
	return x, f.end(framePart)
}

// A bye says why its sender ends the connection.
type bye struct {
	reason byeReason
	text   string
}

type byeReason uint8

const (
	byeClosing   byeReason = 1
	byeSecond    byeReason = 2 // there is another connection between the two
	byeIdle      byeReason = 3
	byeMalformed byeReason = 4
	byePoison    byeReason = 5 // a chunk had another hash
	byeFlood     byeReason = 6
	byeVersion   byeReason = 7
	byeBanned    byeReason = 8
	lastBye                = byeBanned
)

func (x bye) appendBody(b []byte) []byte { return appendText(append(b, byte(x.reason)), x.text) }

func parseBye(b []byte) (x bye, err error) {
	f := fields{frame.FieldsOf(b)}
	x.reason, x.text = byeReason(f.U8()), f.text()
	f.Refuse(x.reason == 0 || x.reason > lastBye)
	return x, f.end(frameBye)
}
