// Package swarm moves chunks between the members of a grid, so that each
// crosses the border of a site once and leaves its source about once.
//
// A [Swarm] serves the chunks of its Holdings and fetches others. Members that
// fetch the same chunks tell each other what they hold. For each chunk the
// members of a site elect one that fetches it from outside, and the others take
// it from that one, on their LAN; in the same way the sites elect one that
// takes it from its source, and the others take it from there. Both elections
// are by rendezvous hashing, need no messages, and are void when the winner
// goes. [Swarm.Gather] brings results back: one member of each site collects
// what its neighbours hold and sends it in one stream.
//
// The first calls are [New], [Swarm.Serve] and [Swarm.Fetch]:
//
//	s := swarm.New(swarm.Config{Self: "alice", Holdings: holdings, Dial: dial, Members: members})
//	go s.Serve(ln)
//	err := s.Fetch(ctx, ids, func(id chunk.ID) { fmt.Println("got", id) })
//
// What was fetched is in Holdings, verified: after a crash the same call
// continues. All exported methods may be called from several goroutines.
//
// It needs nothing of its connections but net.Conn and authorizes nobody: the
// listener does. It does not know what chunks contain, nor which make up an
// object. The protocol is in docs/store-protocol.md.
//
// Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit
// rates", 1998 (the elections); BitTorrent's BEP 3 (rarest first, end game).
package swarm
