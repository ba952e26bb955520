package ri2n

import "crypto/tls"

const alpn = "ri2n/1"

// applicationSecrets are TLS's secrets of the level after the handshake.
type applicationSecrets struct {
	suite       uint16
	read, write []byte
}

func (e *Endpoint) tlsConfig(h *handshake) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{e.cfg.Identity.cert},
		NextProtos:             []string{alpn},
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // verify pins the key instead of a chain
		VerifyConnection:       h.verify,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		SessionTicketsDisabled: true,
		Rand:                   e.cfg.Rand,
	}
}

func (e *Endpoint) transportParams(h *handshake) []byte {
	p := transportParams{
		version:        version1,
		originalDCID:   h.odcid,
		initialSCID:    h.scid,
		maxData:        initialSessionWindow,
		maxStreamData:  initialStreamWindow,
		maxStreamsBidi: maxOpenStreams,
		maxDatagram:    maxDatagramPayload,
		maxPaths:       initialMaxPathID,
		maxIdle:        e.cfg.IdleTimeout,
		maxAckDelay:    maxAckDelay,
	}
	if !h.client && h.retried {
		p.hasRetrySCID, p.retrySCID = true, h.retrySCID
	}
	return appendTransportParams(nil, p)
}

// feedTLS passes contiguous handshake bytes to crypto/tls.
func (h *handshake) feedTLS() error {
	for i := range h.spaces {
		s := &h.spaces[i]
		for s.in.readable() > 0 {
			buf := make([]byte, s.in.readable())
			s.in.read(buf)
			if err := h.tls.HandleData(levels[i], buf); err != nil {
				return err
			}
			if err := h.drainTLS(); err != nil {
				return err
			}
		}
	}
	return nil
}

var levels = [2]tls.QUICEncryptionLevel{tls.QUICEncryptionLevelInitial, tls.QUICEncryptionLevelHandshake}

// drainTLS carries out what crypto/tls asks for.
func (h *handshake) drainTLS() error {
	for {
		ev := h.tls.NextEvent()
		switch ev.Kind {
		case tls.QUICNoEvent:
			return nil
		case tls.QUICWriteData:
			for i, level := range levels {
				if ev.Level == level {
					h.spaces[i].out = append(h.spaces[i].out, ev.Data...)
				}
			}
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if err := h.setSecret(ev); err != nil {
				return err
			}
		case tls.QUICHandshakeDone:
			h.tlsDone = true
		case tls.QUICTransportParameters:
			p, err := parseTransportParams(ev.Data)
			if err != nil {
				return &violation{codeTransportParameter, err.Error()}
			}
			if err := h.checkParams(p); err != nil {
				return err
			}
			h.params = p
		}
	}
}

func (h *handshake) setSecret(ev tls.QUICEvent) error {
	read := ev.Kind == tls.QUICSetReadSecret
	switch ev.Level {
	case tls.QUICEncryptionLevelHandshake:
		keys, err := newPacketKeys(ev.Suite, ev.Data)
		if err != nil {
			return err
		}
		if read {
			h.spaces[1].read = keys
		} else {
			h.spaces[1].write = keys
		}
	case tls.QUICEncryptionLevelApplication:
		secret := append([]byte(nil), ev.Data...)
		h.secrets.suite = ev.Suite
		if read {
			h.secrets.read = secret
		} else {
			h.secrets.write = secret
		}
	}
	return nil
}

// checkParams binds the connection IDs and the version of the packets to the
// TLS transcript (RFC 9000, section 7.3).
func (h *handshake) checkParams(p transportParams) error {
	ok := p.version == version1 && p.initialSCID == h.dcid && p.originalDCID == h.odcid
	if h.client {
		ok = ok && p.hasRetrySCID == h.retried && (!h.retried || p.retrySCID == h.retrySCID)
	}
	if !ok {
		return &violation{codeTransportParameter, "connection IDs or version do not match the handshake"}
	}
	return nil
}
