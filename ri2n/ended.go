package ri2n

// Ended is closed when nothing more will be sent for the session: after
// Close, once the data written before it has been acknowledged or given up and
// the peer has been told. [Session.Done] is closed earlier, when the session
// has ended for its users.
func (s *Session) Ended() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lingered == nil {
		s.lingered = make(chan struct{})
		if s.state == sessionGone {
			close(s.lingered)
		}
	}
	return s.lingered
}
