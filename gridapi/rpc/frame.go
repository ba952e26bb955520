package rpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/instantgrid/instantgrid/gridapi/internal/frame"
)

// Frames (docs/rpc-protocol.md, section 1): kind, length, body.
const (
	frameHeaderLen = frame.HeaderLen
	maxData        = 64 << 10 // bytes in one DATA
	maxBody        = 16 << 10 // bytes of any other body

	protocolVersion = 1
)

type frameKind byte

const (
	frameHello   frameKind = 0x01 // client: opens the connection
	frameCall    frameKind = 0x02 // client: what to call; DATA and END follow
	frameData    frameKind = 0x03 // both: a part of argument or result
	frameEnd     frameKind = 0x04 // client: the argument is complete
	frameAbort   frameKind = 0x05 // client: nobody wants the result any more
	frameWelcome frameKind = 0x11 // worker: what it offers
	frameBeat    frameKind = 0x12 // worker: the call is being worked on
	frameResult  frameKind = 0x13 // worker: the result is complete
	frameError   frameKind = 0x14 // worker: there is no result
)

// errMalformed reports bytes that no append function of ours produces.
var errMalformed = errors.New("rpc: malformed bytes from the other side")

// appendFrameHeader appends the header of a body of n bytes, which follows.
func appendFrameHeader(b []byte, k frameKind, n int) []byte {
	return frame.AppendHeader(b, byte(k), n)
}

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

// readBody reads a body of n bytes, at most maxBody.
func readBody(r *bufio.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// whole returns errMalformed unless a body was read whole and without error.
func whole(f *frame.Fields, k frameKind) error {
	if !f.Whole() {
		return fmt.Errorf("%w: body of frame %#x", errMalformed, byte(k))
	}
	return nil
}

// Longest texts, in bytes.
const (
	maxName      = 64
	maxFunctions = 200
	maxMessage   = 4096
)

// A hello opens a connection.
type hello struct {
	version uint16
	watch   bool // no calls come: the client waits for changes of the welcome
}

func (h hello) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.version)
	if h.watch {
		return append(b, 1)
	}
	return append(b, 0)
}

func parseHello(b []byte) (h hello, err error) {
	f := frame.FieldsOf(b)
	h.version = f.U16()
	watch := f.U8()
	h.watch = watch == 1
	f.Refuse(watch > 1)
	return h, whole(&f, frameHello)
}

// callFlags say what is wanted of a call.
type callFlags uint8

const (
	callStream callFlags = 1 << iota // argument and result are bytes, not values
	allFlags             = callStream
)

// A call says what to do with the argument that follows.
type call struct {
	number    uint32 // the answer repeats it, so that a late one is known as such
	flags     callFlags
	timeout   uint32 // ms; zero: none
	codec     string
	function  string
	signature string // empty: the caller does not know
}

func (c call) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, c.number)
	b = append(b, byte(c.flags))
	b = binary.BigEndian.AppendUint32(b, c.timeout)
	b = frame.AppendText(b, c.codec)
	b = frame.AppendText(b, c.function)
	return frame.AppendText(b, c.signature)
}

func parseCall(b []byte) (c call, err error) {
	f := frame.FieldsOf(b)
	c.number = f.U32()
	c.flags = callFlags(f.U8())
	c.timeout = f.U32()
	c.codec = f.Text(maxName)
	c.function = f.Text(maxName)
	c.signature = f.Text(maxSignature)
	f.Refuse(c.flags&^allFlags != 0)
	return c, whole(&f, frameCall)
}

// A beat says that the call goes on.
type beat struct{ progress uint16 } // parts of progressWhole; more: unknown

const (
	progressWhole   = 10_000
	progressUnknown = 0xffff
)

func (x beat) appendBody(b []byte) []byte { return binary.BigEndian.AppendUint16(b, x.progress) }

func parseBeat(b []byte) (x beat, err error) {
	f := frame.FieldsOf(b)
	x.progress = f.U16()
	return x, whole(&f, frameBeat)
}

// A result ends the DATA of a call.
type result struct {
	call   uint32
	digest [32]byte // SHA-256 of the data
}

func (x result) appendBody(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, x.call), x.digest[:]...)
}

func parseResult(b []byte) (x result, err error) {
	f := frame.FieldsOf(b)
	x.call = f.U32()
	copy(x.digest[:], f.Take(len(x.digest)))
	return x, whole(&f, frameResult)
}

// A failure says why there is no result.
type failure struct {
	call    uint32 // zero: the connection as a whole
	code    failureCode
	pause   uint32 // ms before the worker wants to be asked again
	message string
}

type failureCode uint8

const (
	failFunction  failureCode = 1 // the function returned an error
	failUnknown   failureCode = 2 // there is no such function
	failType      failureCode = 3 // of other types
	failBusy      failureCode = 4 // later, or elsewhere
	failTooLarge  failureCode = 5
	failHandle    failureCode = 6 // the connection has no handle of the function's module
	failAborted   failureCode = 7 // as the client wished, or its time was over
	failMalformed failureCode = 8
)

func (x failure) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, x.call)
	b = append(b, byte(x.code))
	b = binary.BigEndian.AppendUint32(b, x.pause)
	return frame.AppendText(b, x.message[:min(len(x.message), maxMessage)])
}

func parseFailure(b []byte) (x failure, err error) {
	f := frame.FieldsOf(b)
	x.call = f.U32()
	x.code = failureCode(f.U8())
	x.pause = f.U32()
	x.message = f.Text(maxMessage)
	f.Refuse(x.code == 0 || x.code > failMalformed)
	return x, whole(&f, frameError)
}
