package mpi

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A hello opens a connection (docs/mpi-protocol.md, section 1).
type hello struct {
	job         [32]byte
	epoch       uint32
	size        uint32
	from, to    uint32
	incarnation uint32
}

// helloMagic ends in the version.
var helloMagic = []byte("IGMPI\x00\x00\x01")

const (
	helloLen   = 8 + 32 + 5*4
	welcomeLen = 5
)

func appendHello(b []byte, h hello) []byte {
	b = append(b, helloMagic...)
	b = append(b, h.job[:]...)
	for _, x := range [...]uint32{h.epoch, h.size, h.from, h.to, h.incarnation} {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

// parseHello decodes exactly helloLen bytes.
func parseHello(b []byte) (h hello, err error) {
	if len(b) != helloLen || !bytes.Equal(b[:8], helloMagic) {
		return h, fmt.Errorf("%w: not a hello of this version", errMalformed)
	}
	copy(h.job[:], b[8:])
	for i, x := range [...]*uint32{&h.epoch, &h.size, &h.from, &h.to, &h.incarnation} {
		*x = binary.BigEndian.Uint32(b[40+4*i:])
	}
	return h, nil
}

// answer is what the other side says to a hello.
type answer uint8

const (
	answerWelcome answer = 0
	answerJob     answer = 1 // another job, or another number of ranks
	answerEpoch   answer = 2 // another epoch
	answerFenced  answer = 3 // this incarnation was here, or an older one
	answerRank    answer = 4 // no such rank, or not from it
)

func (a answer) Error() string {
	switch a {
	case answerJob:
		return "mpi: it belongs to another job"
	case answerEpoch:
		return "mpi: it is in another epoch of the job"
	case answerFenced:
		return "mpi: fenced: the others go on without this incarnation"
	case answerRank:
		return "mpi: it does not take us for this rank"
	}
	return fmt.Sprintf("mpi: answer %d", uint8(a))
}
