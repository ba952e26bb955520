package protocol

import "encoding/binary"

// maxPart is how much of a question or an answer one message carries, in bytes.
const maxPart = maxBody - 5

func appendPart(b []byte, request uint32, more bool, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, request)
	flag := byte(0)
	if more {
		flag = 1
	}
	return append(append(b, flag), data...)
}

func (p *parser) part() (request uint32, more bool, data []byte) {
	request = p.uint32()
	switch flag := p.byte(); {
	case p.err != nil:
		return 0, false, nil
	case flag > 1:
		p.err = ErrMalformed
		return 0, false, nil
	default:
		more = flag == 1
	}
	return request, more, append([]byte{}, p.take(len(p.b))...)
}

// Asks cuts a question into messages.
func Asks(request uint32, data []byte) []Message {
	return parts(data, func(more bool, part []byte) Message { return Ask{request, more, part} })
}

// Answers cuts an answer into messages.
func Answers(request uint32, data []byte) []Message {
	return parts(data, func(more bool, part []byte) Message { return Answer{request, more, part} })
}

func parts(data []byte, message func(more bool, part []byte) Message) (list []Message) {
	for {
		n := min(len(data), maxPart)
		more := n < len(data)
		list = append(list, message(more, data[:n]))
		if !more {
			return list
		}
		data = data[n:]
	}
}

// A Collector puts the parts of one question or answer together. The zero value
// has none.
type Collector struct {
	request uint32
	data    []byte
	under   bool // parts of request have come, and the last one has not
}

// Size returns how many bytes wait for their last part.
func (c *Collector) Size() int { return len(c.data) }

// Add takes the next part and returns the whole once that was the last one.
// More than limit bytes, and the parts of two questions mixed, are malformed.
func (c *Collector) Add(request uint32, more bool, data []byte, limit int) (whole []byte, done bool, err error) {
	if c.under && c.request != request || len(c.data)+len(data) > limit || more && len(data) == 0 {
		return nil, false, ErrMalformed
	}
	c.request, c.under = request, more
	c.data = append(c.data, data...)
	if more {
		return nil, false, nil
	}
	whole = c.data
	c.data = nil
	return whole, true, nil
}
