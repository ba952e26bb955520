package qlog

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Names of events (docs/qlog.md).
const (
	NameStarted        = "quic:connection_started"
	NameClosed         = "quic:connection_closed"
	NamePacketSent     = "quic:packet_sent"
	NamePacketReceived = "quic:packet_received"
	NamePacketLost     = "quic:packet_lost"
	NameMetrics        = "quic:recovery_metrics_updated"
	NameKeyUpdated     = "quic:key_updated"
	NameStream         = "quic:stream_state_updated"
	NamePath           = "ri2n:path_updated"
	NameBurst          = "ri2n:burst_scheduled"
	NameEventsDropped  = "ri2n:events_dropped"
)

// A Record is one event of a file.
type Record struct {
	Time  float64         `json:"time"` // milliseconds since the file's reference time
	Name  string          `json:"name"`
	Group string          `json:"group_id,omitempty"` // the session, from "1"
	Data  json.RawMessage `json:"data"`
}

// outRecord is a Record that is to be written.
type outRecord struct {
	Time  float64 `json:"time"`
	Name  string  `json:"name"`
	Group string  `json:"group_id,omitempty"`
	Data  any     `json:"data"`
}

// A Header is the first record of a file.
type Header struct {
	FileSchema string `json:"file_schema"`
	Format     string `json:"serialization_format"`
	Title      string `json:"title"`
	Trace      struct {
		EventSchemas []string `json:"event_schemas"`
		CommonFields struct {
			TimeFormat    string `json:"time_format"`
			ReferenceTime struct {
				ClockType string    `json:"clock_type"`
				Epoch     string    `json:"epoch"`
				WallClock time.Time `json:"wall_clock_time"`
			} `json:"reference_time"`
		} `json:"common_fields"`
	} `json:"trace"`
}

const (
	fileSchema = "urn:ietf:params:qlog:file:sequential"
	format     = "application/qlog+json-seq"
)

func header(title string, begun time.Time) Header {
	h := Header{FileSchema: fileSchema, Format: format, Title: title}
	h.Trace.EventSchemas = []string{"urn:ietf:params:qlog:events:quic", "urn:instantgrid:qlog:events:ri2n-1"}
	c := &h.Trace.CommonFields
	c.TimeFormat = "relative_to_epoch"
	c.ReferenceTime.ClockType, c.ReferenceTime.Epoch = "monotonic", "unknown"
	c.ReferenceTime.WallClock = begun.UTC()
	return h
}

// Started is the data of [NameStarted].
type Started struct {
	Vantage string      `json:"vantage_point"` // "client" or "server"
	Local   ri2n.PeerID `json:"local_peer_id"`
	Remote  ri2n.PeerID `json:"remote_peer_id"`
}

// Closed is the data of [NameClosed].
type Closed struct {
	Initiator string `json:"initiator"` // "local" or "remote"
	Reason    string `json:"reason"`
}

// A Packet is the data of [NamePacketSent], [NamePacketReceived] and
// [NamePacketLost].
type Packet struct {
	Path   uint32 `json:"path_id"`
	Header struct {
		Type   string `json:"packet_type"` // "1RTT"
		Number uint64 `json:"packet_number"`
	} `json:"header"`
	Raw struct {
		Length int `json:"length"` // bytes of UDP payload
	} `json:"raw"`
	Frames  []Frame `json:"frames,omitempty"`
	Trigger string  `json:"trigger,omitempty"` // of a loss: "time_threshold" or "reordering_threshold"
}

// A Frame is one frame of a packet, without what it carries.
type Frame struct {
	Type   string      `json:"frame_type"`
	Stream *uint64     `json:"stream_id,omitempty"`
	Path   *uint64     `json:"path_id,omitempty"`
	Offset *uint64     `json:"offset,omitempty"`
	Value  *uint64     `json:"value,omitempty"` // a limit, a code or a state
	Length int         `json:"length,omitempty"`
	FIN    bool        `json:"fin,omitempty"`
	Acked  [][2]uint64 `json:"acked_ranges,omitempty"` // smallest and largest of each
}

// Metrics is the data of [NameMetrics]. Counts are those of the path since its
// start; round trips are milliseconds; rates are bits per second.
type Metrics struct {
	Path             uint32  `json:"path_id"`
	SmoothedRTT      float64 `json:"smoothed_rtt"`
	MinRTT           float64 `json:"min_rtt"`
	RTTVariance      float64 `json:"rtt_variance"`
	CongestionWindow int     `json:"congestion_window"`
	BytesInFlight    int     `json:"bytes_in_flight"`
	PacingRate       float64 `json:"pacing_rate,omitempty"`
	DeliveryRate     float64 `json:"delivery_rate,omitempty"`
	MTU              int     `json:"mtu"`
	BytesSent        uint64  `json:"bytes_sent"`
	BytesDelivered   uint64  `json:"bytes_delivered"`
	BytesReceived    uint64  `json:"bytes_received"`
	PacketsSent      uint64  `json:"packets_sent"`
	PacketsReceived  uint64  `json:"packets_received"`
	PacketsLost      uint64  `json:"packets_lost"`
	PacketsSpurious  uint64  `json:"packets_spurious"`
	Reinjected       uint64  `json:"packets_reinjected"`
	ProbeTimeouts    uint64  `json:"probe_timeouts"`
}

// KeyUpdated is the data of [NameKeyUpdated].
type KeyUpdated struct {
	Direction string `json:"direction"` // "send" or "receive"
	Phase     uint64 `json:"key_phase"` // updates so far
}

// A Stream is the data of [NameStream].
type Stream struct {
	ID       uint64 `json:"stream_id"`
	New      string `json:"new"` // "open" or "closed"
	Sent     uint64 `json:"bytes_sent,omitempty"`
	Received uint64 `json:"bytes_received,omitempty"`
}

// A Path is the data of [NamePath].
type Path struct {
	Path       uint32         `json:"path_id"`
	Link       string         `json:"link"`
	Relayed    bool           `json:"relayed,omitempty"`
	Local      netip.AddrPort `json:"local,omitzero"`
	Remote     netip.AddrPort `json:"remote,omitzero"`
	Old        string         `json:"old"`
	New        string         `json:"new"`
	Sending    bool           `json:"sending"`
	Reinjected uint64         `json:"packets_reinjected,omitempty"`
}

// A Burst is the data of [NameBurst].
type Burst struct {
	Path    uint32 `json:"path_id"`
	Packets int    `json:"packets"`
	Bytes   int    `json:"bytes"`
}

// EventsDropped is the data of [NameEventsDropped]: how many events are missing
// here, of all sessions of the file.
type EventsDropped struct {
	Count uint64 `json:"count"`
}

// describe returns name and data of the record of e; the name is empty for an
// event that this version does not know.
func describe(e ri2n.TraceEvent) (name string, data any) {
	switch e := e.(type) {
	case ri2n.TraceStarted:
		d := Started{Vantage: "server", Local: e.Local, Remote: e.Peer}
		if e.Client {
			d.Vantage = "client"
		}
		return NameStarted, d
	case ri2n.TraceClosed:
		d := Closed{Initiator: "local", Reason: e.Err.Error()}
		if e.Remote {
			d.Initiator = "remote"
		}
		return NameClosed, d
	case ri2n.TracePacketSent:
		return NamePacketSent, packet(e.Path, e.Number, e.Size, e.Frames)
	case ri2n.TracePacketReceived:
		return NamePacketReceived, packet(e.Path, e.Number, e.Size, e.Frames)
	case ri2n.TracePacketLost:
		d := packet(e.Path, e.Number, e.Size, nil)
		d.Trigger = "reordering_threshold"
		if e.ByTime {
			d.Trigger = "time_threshold"
		}
		return NamePacketLost, d
	case ri2n.TraceMetrics:
		return NameMetrics, metrics(e.PathInfo)
	case ri2n.TracePath:
		return NamePath, Path{
			Path: e.Path, Link: e.Link, Relayed: e.Carrier, Local: e.Local, Remote: e.Remote,
			Old: e.Old.String(), New: e.New.String(), Sending: e.Sending, Reinjected: e.Reinjected,
		}
	case ri2n.TraceBurst:
		return NameBurst, Burst{e.Path, e.Packets, e.Bytes}
	case ri2n.TraceKeyUpdate:
		d := KeyUpdated{"receive", e.Phase}
		if e.Sending {
			d.Direction = "send"
		}
		return NameKeyUpdated, d
	case ri2n.TraceStream:
		d := Stream{e.ID, "closed", e.Sent, e.Received}
		if e.Open {
			d.New = "open"
		}
		return NameStream, d
	}
	return "", nil
}

func packet(path uint32, number uint64, size int, frames []ri2n.TraceFrame) Packet {
	p := Packet{Path: path}
	p.Header.Type, p.Header.Number = "1RTT", number
	p.Raw.Length = size
	for _, f := range frames {
		p.Frames = append(p.Frames, frame(f))
	}
	return p
}

func frame(f ri2n.TraceFrame) Frame {
	d := Frame{Type: strings.ToLower(f.Type), Length: f.Length, FIN: f.FIN}
	switch {
	case strings.Contains(f.Type, "STREAM") && !strings.Contains(f.Type, "STREAMS") || f.Type == "STOP_SENDING":
		d.Stream = &f.ID
	case strings.HasPrefix(f.Type, "PATH_ACK"), f.Type == "PATH_STATUS", f.Type == "PATH_ABANDON":
		d.Path = &f.ID
	}
	switch {
	case f.Type == "STREAM":
		d.Offset = &f.Offset
	case f.Offset != 0:
		d.Value = &f.Offset
	}
	for _, r := range f.Acked {
		d.Acked = append(d.Acked, [2]uint64{r.Smallest, r.Largest})
	}
	return d
}

func metrics(p ri2n.PathInfo) Metrics {
	return Metrics{
		Path: p.ID, SmoothedRTT: milliseconds(p.RTT), MinRTT: milliseconds(p.MinRTT), RTTVariance: milliseconds(p.RTTVar),
		CongestionWindow: p.CongestionWindow, BytesInFlight: p.BytesInFlight,
		PacingRate: bits(p.PacingRate), DeliveryRate: bits(p.DeliveryRate), MTU: p.MTU,
		BytesSent: p.BytesSent, BytesDelivered: p.BytesDelivered, BytesReceived: p.BytesReceived,
		PacketsSent: p.PacketsSent, PacketsReceived: p.PacketsReceived, PacketsLost: p.PacketsLost,
		PacketsSpurious: p.PacketsSpurious, Reinjected: p.PacketsReinjected, ProbeTimeouts: p.ProbeTimeouts,
	}
}

// bits turns bytes per second into whole bits per second; what is no number
// that JSON has becomes zero.
func bits(bytesPerSecond float64) float64 {
	if math.IsNaN(bytesPerSecond) || math.IsInf(bytesPerSecond, 0) {
		return 0
	}
	return math.Round(8 * bytesPerSecond)
}

// milliseconds keeps whole microseconds, which are exact in the text.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// appendRecord appends v as one record of a JSON text sequence.
func appendRecord(b []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return b, fmt.Errorf("qlog: encode record: %w", err)
	}
	b = append(b, recordSeparator)
	b = append(b, text...)
	return append(b, '\n'), nil
}

// recordSeparator opens every record (RFC 7464, section 2.2).
const recordSeparator = 0x1e
