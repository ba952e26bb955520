package portmap

import "time"

// An epoch follows the clock of a router, which starts anew when the router
// loses its mappings (RFC 6887, section 8.5; RFC 6886, section 3.6). The zero
// value has heard nothing.
type epoch struct {
	server uint32 // seconds, as heard last
	at     time.Time
}

// follow takes the router's seconds as heard at now, and reports whether they go
// on from those before: otherwise the router has lost its state.
func (e *epoch) follow(server uint32, now time.Time) bool {
	was := *e
	*e = epoch{server, now}
	if was.at.IsZero() {
		return true
	}
	if int64(server) < int64(was.server)-1 {
		return false
	}
	// Both clocks may be off by a sixteenth and two seconds.
	client, router := int64(now.Sub(was.at)/time.Second), int64(server)-int64(was.server)
	return client+2 >= router-router/16 && router+2 >= client-client/16
}
