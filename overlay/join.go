package overlay

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A JoinConfig says where a node's state is and how it reaches the rendezvous.
// Dir is required.
type JoinConfig struct {
	Dir      string
	Identity *ri2n.Identity // nil: that of Dir

	// Name is what the node wants to be called. Empty: Suggested, with a
	// number behind it if somebody has that name.
	Name      string
	Suggested string // such as the host's name; any text

	Link    net.PacketConn // nil: a UDP socket of its own
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Logger  *slog.Logger
}

// Joined is what a node has become.
type Joined struct {
	Grid       membership.GridID
	GridName   string
	Name       string
	Peer       ri2n.PeerID
	Roles      membership.Roles
	Address    netip.Addr
	Rendezvous rendezvous.Address
	ValidUntil time.Time // of the record, renewed by itself
	CertUntil  time.Time
	Ledgerless bool // the grid has no ledger, and no rendezvous
}

// Join makes the node of cfg.Dir a member: with the invite key in the token it
// certifies its own key, and has the ledger count it in. The secret of the token
// goes nowhere. A node that asks twice with one token, because the answer was
// lost, is counted once.
//
// In a grid without a ledger nobody is asked, and the certificate alone counts.
func Join(ctx context.Context, cfg JoinConfig, token string) (*Joined, error) {
	t, err := membership.ParseToken(token)
	if err != nil {
		return nil, err
	}
	if err := t.Check(time.Now()); err != nil {
		return nil, err
	}
	j, err := newJoiner(cfg)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if t.Grid != nil {
		return j.joinLedgerless(t)
	}
	if err := j.open(); err != nil {
		return nil, err
	}
	if err := j.converse(ctx, t.Server); err != nil {
		return nil, err
	}
	b, err := j.ask(ctx, &membership.Request{Op: membership.OpGrid, Grid: t.Invite.Grid})
	if err != nil {
		return nil, err
	}
	info, err := membership.ParseGrid(b)
	switch {
	case err != nil:
		return nil, err
	case info.ID() != t.Invite.Grid:
		return nil, &membership.Error{Problem: membership.OtherGrid, What: "the rendezvous's description of the grid"}
	case info.Ledgerless():
		// Whoever keeps it takes away what protects it.
		return nil, &membership.Error{Problem: membership.NotLedger, What: "the rendezvous's description of the grid", Detail: "it names no ledger"}
	}
	if err := mayJoin(j.dir, info.ID()); err != nil {
		return nil, err
	}
	return j.join(ctx, t, info)
}

// mayJoin returns nil unless the node in dir belongs to another grid.
func mayJoin(dir directory, id membership.GridID) error {
	b, err := dir.read(fileMembership)
	if err != nil || b == nil {
		return err
	}
	if b, err = dir.read(fileGrid); err != nil || b == nil {
		return err
	}
	info, err := membership.ParseGrid(b)
	if err != nil {
		return &StateError{File: dir.path(fileGrid), Err: err}
	}
	if info.ID() != id {
		return &MemberError{Dir: string(dir), Grid: info.Name}
	}
	return nil
}

// A FoundConfig says what a new grid is to be.
type FoundConfig struct {
	JoinConfig

	GridName   string
	Rendezvous []rendezvous.Address // that share the ledger; the first is used
	Ledgerless bool                 // the grid has no ledger; Rendezvous and Claim are not used
	Network    netip.Prefix         // of members' IPv4 addresses; zero: membership.DefaultNetwork
	Claim      [membership.ClaimSize]byte
}

// Found makes a grid: its key, which stays in cfg.Dir and is worth a copy on
// paper; its description at the rendezvous; and this node as its first member,
// an admin. When it fails half-way it may be called again with the same
// directory, and goes on.
//
// A grid without a ledger is made without any server. Its members find each other
// on a local network, and its invitations cannot be counted.
func Found(ctx context.Context, cfg FoundConfig) (*Joined, error) {
	if err := membership.CheckName(cfg.GridName); err != nil {
		return nil, &NameError{Name: cfg.GridName, Problem: strings.TrimPrefix(err.Error(), "membership: "), Member: true}
	}
	if cfg.Ledgerless {
		cfg.Rendezvous = nil
	} else if len(cfg.Rendezvous) == 0 {
		return nil, &NoWayError{}
	}
	if cfg.Network == (netip.Prefix{}) {
		cfg.Network = membership.DefaultNetwork
	}
	dir := directory(cfg.Dir)
	j, err := newJoiner(cfg.JoinConfig)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := mayJoin(dir, membership.GridID{}); err != nil {
		return nil, err
	}
	key, err := gridKey(dir, true)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	info, err := membership.SignGrid(key, membership.Grid{
		Key: key.Public().(ed25519.PublicKey), Sequence: uint64(now.Unix()), Issued: now, Name: cfg.GridName,
		Network: cfg.Network.Masked(), Rendezvous: cfg.Rendezvous,
	})
	if err != nil {
		return nil, err
	}
	options := membership.InviteOptions{
		Roles: membership.Admin | membership.Submitter | membership.Worker | membership.Relay,
		TTL:   time.Hour, MemberLife: 10 * membership.MemberLife, // the admin has nobody to ask
	}
	if cfg.Ledgerless {
		t, err := membership.NewLedgerlessInvite(rand.Reader, key, info, now, options)
		if err != nil {
			return nil, err
		}
		return j.joinLedgerless(t)
	}
	if err := j.open(); err != nil {
		return nil, err
	}
	if err := j.converse(ctx, cfg.Rendezvous[0]); err != nil {
		return nil, err
	}
	_, err = j.ask(ctx, &membership.Request{Op: membership.OpSetUp, Grid: info.ID(), Claim: cfg.Claim, Body: membership.AppendGrid(nil, info)})
	if err != nil {
		return nil, err
	}
	t, err := membership.NewInvite(rand.Reader, key, cfg.Rendezvous[0], now, options)
	if err != nil {
		return nil, err
	}
	return j.join(ctx, t, info)
}

// A MemberError is a directory whose node belongs to a grid already.
type MemberError struct {
	Dir, Grid string
}

func (e *MemberError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the directory.
func (e *MemberError) Object() string { return e.Dir }

// Cause names the grid.
func (e *MemberError) Cause() string { return "the node in it belongs to grid " + e.Grid + " already" }

// Next says what to do.
func (e *MemberError) Next() string {
	return "use another state directory for another grid: --dir DIRECTORY"
}

// A joiner is a node before it is a member.
type joiner struct {
	cfg      JoinConfig
	dir      directory
	identity *ri2n.Identity
	endpoint *ri2n.Endpoint
	link     *ri2n.Link
	talk     *rendezvous.Conversation
}

// newJoiner opens the directory. After an error cfg.Link is closed.
func newJoiner(cfg JoinConfig) (*joiner, error) {
	j := &joiner{cfg: cfg, dir: directory(cfg.Dir), identity: cfg.Identity}
	var err error
	switch {
	case cfg.Dir == "":
		err = errors.New("overlay: a member needs a directory to remember what it is")
	default:
		err = j.dir.open()
	}
	if err == nil && j.identity == nil {
		j.identity, err = LoadIdentity(cfg.Dir)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// open opens the way to a rendezvous.
func (j *joiner) open() error {
	if j.cfg.Link == nil {
		links, err := defaultLinks(0)
		if err != nil {
			return err
		}
		j.cfg.Link = links[0].Conn
	}
	var err error
	if j.endpoint, err = ri2n.NewEndpoint(ri2n.Config{Identity: j.identity, Logger: j.cfg.Logger}); err != nil {
		return err
	}
	j.link, err = j.endpoint.AddLink("join", j.cfg.Link)
	return err
}

func (j *joiner) close() {
	if j.talk != nil {
		j.talk.Close()
	}
	if j.endpoint != nil {
		j.endpoint.Close()
	}
	if j.cfg.Link != nil && j.link == nil {
		j.cfg.Link.Close() // nobody else owns it
	}
}

func (j *joiner) converse(ctx context.Context, at rendezvous.Address) (err error) {
	j.talk, err = rendezvous.Converse(ctx, rendezvous.Config{
		Server: at, Endpoint: j.endpoint, Links: func() []*ri2n.Link { return []*ri2n.Link{j.link} }, Resolve: j.cfg.Resolve,
	})
	return err
}

func (j *joiner) ask(ctx context.Context, q *membership.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := j.talk.Ask(ctx, membership.AppendRequest(nil, q))
	if err != nil {
		return nil, err
	}
	return membership.ParseAnswer(answer)
}

// maxNames is how many names are tried under a suggestion.
const maxNames = 9

// names returns those that the node would have, the best first.
func (j *joiner) names(t *membership.Token) []string {
	if j.cfg.Name != "" {
		return []string{j.cfg.Name}
	}
	base := membership.NameFrom(j.cfg.Suggested)
	if only := strings.TrimSuffix(string(t.Invite.Names), "*"); !t.Invite.Names.Match(base) && membership.CheckName(only) == nil {
		return []string{only} // the one name it is for
	}
	names := []string{base}
	for i := 2; i <= maxNames; i++ {
		names = append(names, fmt.Sprintf("%s-%d", base, i))
	}
	return names
}

func (j *joiner) key() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(j.identity.Seed()).Public().(ed25519.PublicKey)
}

// joinLedgerless makes the node a member of a grid without a ledger. Nobody knows
// which names are taken: the members see to that.
func (j *joiner) joinLedgerless(t *membership.Token) (*Joined, error) {
	if err := mayJoin(j.dir, t.Grid.ID()); err != nil {
		return nil, err
	}
	now := time.Now()
	chain, err := t.Join(j.key(), j.names(t)[0], now)
	if err != nil {
		return nil, err
	}
	return j.store(now, t, t.Grid, &membership.Proof{Chain: chain})
}

// join has the ledger count the node in and stores what it is.
func (j *joiner) join(ctx context.Context, t *membership.Token, info *membership.Grid) (*Joined, error) {
	var err error
	for _, name := range j.names(t) {
		var chain *membership.Chain
		now := time.Now()
		if chain, err = t.Join(j.key(), name, now); err != nil {
			break
		}
		var b []byte
		b, err = j.ask(ctx, &membership.Request{Op: membership.OpJoin, Grid: info.ID(), Body: membership.AppendChain(nil, chain)})
		if errors.Is(err, &membership.Error{Problem: membership.NameTaken}) {
			continue
		}
		if err != nil {
			break
		}
		var r *membership.Record
		if r, err = membership.ParseRecord(b); err != nil {
			break
		}
		return j.store(now, t, info, &membership.Proof{Chain: chain, Record: r})
	}
	return nil, err
}

// store writes what the node is. The proof is last: without it the node belongs
// to no grid, and joining again repairs that.
func (j *joiner) store(now time.Time, t *membership.Token, info *membership.Grid, p *membership.Proof) (*Joined, error) {
	m, err := membership.Verify(p, j.identity.PeerID(), info, nil, now)
	if err != nil {
		return nil, err
	}
	err = j.dir.write(fileGrid, membership.AppendGrid(nil, info))
	if err == nil && !info.Ledgerless() {
		err = j.dir.write(fileRendezvous, []byte(t.Server.String()+"\n"))
	}
	if err == nil {
		err = j.dir.write(fileMembership, membership.AppendProof(nil, p))
	}
	if err != nil {
		return nil, err
	}
	return &Joined{
		Grid: info.ID(), GridName: info.Name, Name: m.Name, Peer: m.Peer, Roles: m.Roles, Address: m.Address,
		Rendezvous: t.Server, ValidUntil: m.Expires, CertUntil: m.CertificateExpires, Ledgerless: info.Ledgerless(),
	}, nil
}

// A grid key file is one line of prefix, a blank and the seed in base64.
const gridKeyPrefix = "instantgrid-grid-key-1 "

var errNotGridKey = errors.New("this is not a grid key file")

// gridKey reads the grid key in dir. Fresh says that one is made if there is
// none; otherwise that is fs.ErrNotExist.
func gridKey(dir directory, fresh bool) (ed25519.PrivateKey, error) {
	b, err := dir.read(fileGridKey)
	if err != nil {
		return nil, err
	}
	if b == nil && !fresh {
		return nil, fs.ErrNotExist
	}
	if b == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		text := append(base64.StdEncoding.AppendEncode([]byte(gridKeyPrefix), key.Seed()), '\n')
		return key, dir.create(fileGridKey, text)
	}
	if err := dir.private(fileGridKey); err != nil {
		return nil, err
	}
	text, found := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), gridKeyPrefix)
	seed, err := base64.StdEncoding.Strict().DecodeString(text)
	if !found || err != nil || len(seed) != ed25519.SeedSize {
		return nil, &StateError{File: dir.path(fileGridKey), Err: errNotGridKey}
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// An AdminError is a directory without the key of its grid.
type AdminError struct {
	Dir string
}

func (e *AdminError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the directory.
func (e *AdminError) Object() string { return e.Dir }

// Cause says what is missing.
func (e *AdminError) Cause() string { return "it does not hold the key of a grid" }

// Next says what to do.
func (e *AdminError) Next() string {
	return "run it where grid init was run, or make a grid: grid init NAME --rendezvous HOST:PORT#PEERID"
}

// admin reads what an admin has in dir.
func admin(dir directory) (ed25519.PrivateKey, *membership.Grid, error) {
	key, err := gridKey(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &AdminError{string(dir)}
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := dir.read(fileGrid)
	if err != nil {
		return nil, nil, err
	}
	if b == nil {
		return nil, nil, &AdminError{string(dir)}
	}
	info, err := membership.ParseGrid(b)
	if err != nil {
		return nil, nil, &StateError{File: dir.path(fileGrid), Err: errNotGrid}
	}
	return key, info, nil
}

// InviteMember makes an invitation with the grid key in dir. It needs no
// network: the ledger hears of it from whoever uses it.
func InviteMember(dir string, o membership.InviteOptions) (*membership.Token, error) {
	key, info, err := admin(directory(dir))
	if err != nil {
		return nil, err
	}
	if info.Ledgerless() {
		return membership.NewLedgerlessInvite(rand.Reader, key, info, time.Now(), o)
	}
	return membership.NewInvite(rand.Reader, key, info.Rendezvous[0], time.Now(), o)
}

// Revoke signs a list that names ids besides those of newest, the newest list
// that is known (nil: none), with the grid key in dir. It takes effect with
// [Node.Publish].
func Revoke(dir string, newest []byte, ids ...ri2n.PeerID) ([]byte, error) {
	key, info, err := admin(directory(dir))
	if err != nil {
		return nil, err
	}
	var old *membership.Revocations
	if newest != nil {
		if old, err = membership.ParseRevocations(info.Key, newest); err != nil {
			return nil, err
		}
	}
	l, err := membership.Revoke(key, old, time.Now(), ids...)
	if err != nil {
		return nil, err
	}
	return membership.AppendRevocations(nil, l), nil
}
