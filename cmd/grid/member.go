package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// joinTimeout bounds the questions of init and join.
const joinTimeout = 30 * time.Second

// joinedDocument is "instantgrid/init/1" and "instantgrid/join/1".
type joinedDocument struct {
	Grid       string            `json:"grid"`
	GridID     membership.GridID `json:"grid_id"`
	Name       string            `json:"name"` // NAME.GRID.grid
	PeerID     ri2n.PeerID       `json:"peer_id"`
	Roles      []string          `json:"roles"`
	Address    netip.Addr        `json:"address"`
	Rendezvous string            `json:"rendezvous,omitempty"`
	Ledgerless bool              `json:"ledgerless,omitempty"`
	CertUntil  time.Time         `json:"certificate_until"`
	Dir        string            `json:"dir"`
	Next       string            `json:"next"`
}

// printJoined says what this computer has become.
func printJoined(cmd *cobra.Command, document, dir, next string, j *overlay.Joined) error {
	doc := joinedDocument{
		Grid: j.GridName, GridID: j.Grid, Name: fullName(j.Name, j.GridName), PeerID: j.Peer, Roles: j.Roles.Names(),
		Address: j.Address, Rendezvous: meetingText(j.Rendezvous), Ledgerless: j.Ledgerless, CertUntil: j.CertUntil, Dir: dir, Next: next,
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, document, doc)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "grid        %s  %s\n", doc.Grid, doc.GridID)
	fmt.Fprintf(w, "name        %s\n", doc.Name)
	fmt.Fprintf(w, "roles       %s\n", strings.Join(doc.Roles, ", "))
	fmt.Fprintf(w, "address     %s\n", doc.Address)
	_, err := fmt.Fprintf(w, "peer ID     %s\n", doc.PeerID)
	cli.Note(cmd, "next: %s", next)
	return err
}

func fullName(name, grid string) string { return name + "." + grid + ".grid" }

// hostName is what a computer calls itself, for a suggestion.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "node"
	}
	return name
}

func initCommand(o *options) *cobra.Command {
	var claim, name, network string
	var others []string
	var lan bool
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Make a grid, with this computer as its admin",
		Long: `Make a grid: a group of computers that know each other by name and by what their
admin has signed. The grid's key is made here and stays here: the file grid.key
in the state directory is worth a copy in a safe place, since whoever has it
decides who belongs to the grid.

The rendezvous keeps the grid's ledger. It prints the claim code to use at its
start.

With --lan there is neither. The members find each other on their local network,
and whoever holds an invitation can join until it is revoked, since nobody counts
its uses. A grid stays what it was made as.`,
		Example: `grid init lab --rendezvous HOST:PORT#PEERID --claim CODE
grid init lab --rendezvous HOST:PORT#PEERID --claim CODE --name desk --network 10.88.0.0/16
grid init lab --lan`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := overlay.FoundConfig{GridName: args[0], Ledgerless: lan}
			if err := membership.CheckName(args[0]); err != nil {
				return cli.Usagef(args[0], "grid init NAME", "%s", strings.TrimPrefix(err.Error(), "membership: "))
			}
			if err := checkNodeName(name); err != nil {
				return err
			}
			if network != "" {
				prefix, err := netip.ParsePrefix(network)
				if err != nil || !prefix.Addr().Is4() || prefix.Bits() < 8 || prefix.Bits() > 30 {
					return cli.Usagef("--network "+network, "grid init NAME --network 10.88.0.0/16", "it is not an IPv4 prefix of 8 to 30 bits")
				}
				cfg.Network = prefix.Masked()
			}
			if err := checkOverlap(cfg.Network); err != nil {
				return err
			}
			if claim != "" {
				code, err := ledger.ParseClaim(claim)
				if err != nil {
					return cli.Usagef("--claim "+claim, "copy the code that rendezvous prints at its start", "this is not a claim code of 16 letters and digits")
				}
				cfg.Claim = code
			}
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			if lan && (o.rendezvous != "" || claim != "" || len(others) > 0) {
				return cli.Usagef("--lan", "grid init NAME --lan, or grid init NAME --rendezvous HOST:PORT#PEERID", "a grid without a ledger is made at no rendezvous")
			}
			if !lan {
				address, err := o.needRendezvous(dir, "grid init NAME")
				if err != nil {
					return err
				}
				cfg.Rendezvous = []rendezvous.Address{address}
			}
			for _, text := range others {
				a, err := rendezvous.ParseAddress(text)
				if err != nil {
					return err
				}
				cfg.Rendezvous = append(cfg.Rendezvous, a)
			}
			release, err := takeIdentity(dir)
			if err != nil {
				return takenOr(err, dir, "stop it, run grid init, and start it again")
			}
			defer release()
			ctx, cancel := context.WithTimeout(cmd.Context(), joinTimeout)
			defer cancel()
			cfg.JoinConfig = overlay.JoinConfig{Dir: dir, Name: name, Suggested: hostName()}
			j, err := overlay.Found(ctx, cfg)
			if err != nil {
				return err
			}
			return printJoined(cmd, "init", dir, "grid invite", j)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&lan, "lan", false, "make a grid without a rendezvous, for one local network; its invitations are not counted")
	f.StringVar(&claim, "claim", "", "the `CODE` that the rendezvous prints at its start")
	f.StringVar(&name, "name", "", "`name` of this computer (default its host name)")
	f.StringVar(&network, "network", "", "IPv4 `PREFIX` that members get addresses of (default "+membership.DefaultNetwork.String()+")")
	f.StringSliceVar(&others, "also", nil, "`HOST:PORT#PEERID` of another rendezvous that shares the ledger; may be repeated")
	return cmd
}

// checkNodeName refuses a name before anything is asked.
func checkNodeName(name string) error {
	if name == "" {
		return nil
	}
	if err := membership.CheckName(name); err != nil {
		return cli.Usagef("--name "+name, "choose a name of lower-case letters, digits and hyphens", "%s", strings.TrimPrefix(err.Error(), "membership: "))
	}
	return nil
}

// checkOverlap refuses a network that an interface of this computer is in.
func checkOverlap(network netip.Prefix) error {
	if !network.IsValid() {
		network = membership.DefaultNetwork
	}
	for _, p := range interfacePrefixes() {
		if p.Overlaps(network) {
			return cli.Usagef("--network "+network.String(), "grid init NAME --network 10.88.0.0/16", "this computer is in the network %s already", p)
		}
	}
	return nil
}

// inviteDocument is "instantgrid/invite/1".
type inviteDocument struct {
	Token      string      `json:"token"` // a secret
	Invite     ri2n.PeerID `json:"invite"`
	Roles      []string    `json:"roles"`
	Names      string      `json:"names"`
	Uses       int         `json:"uses"`
	Counted    bool        `json:"counted"` // false: nobody counts uses or ends it in time
	JoinBefore time.Time   `json:"join_before"`
	Next       string      `json:"next"`
}

func inviteCommand(o *options) *cobra.Command {
	var roles, names string
	var options membership.InviteOptions
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print an invitation to the grid",
		Long: `Print a token with which another computer joins the grid, once unless --uses says
otherwise. It is a secret until it is used up. It needs no network: the
rendezvous counts its uses when it is used. In a grid without a ledger (grid init
--lan) nobody does, and it is a secret for as long as it is not revoked.

What it prints as invite names the invitation: grid revoke takes back the
invitation and everybody who came with it.`,
		Example: `grid invite
grid invite --role worker,relay --uses 10 --ttl 1h --names 'build-*'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if options.Roles, err = membership.ParseRoles(roles); err != nil {
				return cli.Usagef("--role "+roles, "grid invite --role worker,relay", "%s", strings.TrimPrefix(err.Error(), "membership: "))
			}
			options.Names = membership.Pattern(names)
			if err := options.Names.Check(); err != nil {
				return cli.Usagef("--names "+names, "grid invite --names 'build-*'", "%s", strings.TrimPrefix(err.Error(), "membership: "))
			}
			if options.Uses < 1 || options.Uses > membership.MaxUses {
				return cli.Usagef(fmt.Sprintf("--uses %d", options.Uses), "grid invite --uses 1", "an invitation has 1 to %d uses", membership.MaxUses)
			}
			if options.TTL < time.Second {
				return cli.Usagef("--ttl "+options.TTL.String(), "grid invite --ttl 24h", "an invitation must be valid for some time")
			}
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			token, err := overlay.InviteMember(dir, options)
			if err != nil {
				return err
			}
			doc := inviteDocument{
				Token: token.Encode(), Invite: token.Invite.ID(), Roles: token.Invite.Roles.Names(), Names: string(token.Invite.Names),
				Uses: token.Invite.Uses, Counted: token.Grid == nil, JoinBefore: token.Invite.JoinBefore, Next: "grid join TOKEN",
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "invite", doc)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), doc.Token)
			if !doc.Counted {
				cli.Note(cmd, "invite %s: role %s", doc.Invite, strings.Join(doc.Roles, ", "))
				cli.Note(cmd, "note: %s", uncounted)
				cli.Note(cmd, "next, on the computer that is to join: grid join TOKEN")
				return err
			}
			cli.Note(cmd, "invite %s: role %s, %s, until %s", doc.Invite, strings.Join(doc.Roles, ", "), usesText(doc.Uses), doc.JoinBefore.Format("2006-01-02 15:04 MST"))
			cli.Note(cmd, "next, on the computer that is to join: grid join TOKEN")
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&roles, "role", "worker", "`ROLES` of who joins: "+strings.Join(membership.RoleNames(), ", ")+"; several with commas")
	f.IntVar(&options.Uses, "uses", 1, "how many computers may join with it")
	f.DurationVar(&options.TTL, "ttl", 24*time.Hour, "how long it may be used")
	f.StringVar(&names, "names", "*", "`NAME` that who joins must have, or the beginning of one with a * behind it")
	return cmd
}

func usesText(n int) string {
	if n == 1 {
		return "one use"
	}
	return fmt.Sprintf("%d uses", n)
}

func joinCommand(o *options) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "join TOKEN",
		Short: "Join a grid with an invitation",
		Long: `Join a grid: make this computer's key, have the invitation certify it, and have
the grid's ledger count it in under a name of its own. The key never leaves this
computer. A minus instead of TOKEN reads it from the standard input, which keeps
it out of the shell's history.

The name is this computer's host name, with a number behind it if another member
has that name. In a grid without a ledger (grid init --lan) nobody is asked; a name
that two members have stays with the one that the others knew first.`,
		Example: `grid join TOKEN
grid join --name desk -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNodeName(name); err != nil {
				return err
			}
			text := args[0]
			if text == "-" {
				b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
				if err != nil {
					return err
				}
				text = string(b)
			}
			if _, err := membership.ParseToken(text); err != nil {
				return err
			}
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			release, err := takeIdentity(dir)
			if err != nil {
				return takenOr(err, dir, "stop it, run grid join, and start it again")
			}
			defer release()
			ctx, cancel := context.WithTimeout(cmd.Context(), joinTimeout)
			defer cancel()
			j, err := overlay.Join(ctx, overlay.JoinConfig{Dir: dir, Name: name, Suggested: hostName()}, text)
			if err != nil {
				return err
			}
			return printJoined(cmd, "join", dir, "grid up", j)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`name` of this computer (default its host name)")
	return cmd
}

// membersDocument is "instantgrid/members/1".
type membersDocument struct {
	Grid *overlay.GridStatus    `json:"grid"`
	Rows []overlay.MemberStatus `json:"rows"`
}

func membersCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the members of the grid",
		Long: `List the members of the grid, as this computer has verified them: what the
rendezvous lists and the grid's key has not certified is left out.`,
		Example: "grid members\ngrid members --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var doc membersDocument
			err := o.withMember(cmd, func(ctx context.Context, m gridMember) (err error) {
				doc, err = m.members(ctx)
				return err
			})
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "members", doc)
			}
			return writeMembers(cmd.OutOrStdout(), doc)
		},
	}
}

func writeMembers(w io.Writer, doc membersDocument) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tROLES\tADDRESS\tPEER ID\tVALID UNTIL")
	for _, m := range doc.Rows {
		note := ""
		if m.Self {
			note = "  this computer"
		} else if m.Connected {
			note = "  connected"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s%s\n", fullName(m.Name, doc.Grid.Name), m.Roles, ipText(m.Address), m.Peer, m.ValidUntil.Format("2006-01-02"), note)
	}
	return t.Flush()
}

// revokeDocument is "instantgrid/revoke/1".
type revokeDocument struct {
	Sequence uint64        `json:"sequence"`
	Revoked  []ri2n.PeerID `json:"revoked"`
}

func revokeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|PEERID|INVITE...",
		Short: "Take members or invitations back",
		Long: `Take members back for good: sign a list that names their keys, and give it to the
rendezvous and the members, which end the sessions with them within a minute. An
invitation, named by what grid invite has printed, is taken back with everybody
who came with it. A name that is taken back is free again.`,
		Example: `grid revoke laptop
grid revoke INVITE`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			// Without the key there is no use in asking anybody.
			if _, err := overlay.Revoke(dir, nil); err != nil {
				return err
			}
			var doc revokeDocument
			err = o.withMember(cmd, func(ctx context.Context, m gridMember) error {
				known, err := m.members(ctx)
				if err != nil {
					return err
				}
				for _, text := range args {
					id, err := findMember(known, text)
					if err != nil {
						return err
					}
					doc.Revoked = append(doc.Revoked, id)
				}
				newest, err := m.revocations(ctx)
				if err != nil {
					return err
				}
				list, err := overlay.Revoke(dir, newest, doc.Revoked...)
				if err != nil {
					return err
				}
				doc.Sequence, err = m.publish(ctx, list)
				return err
			})
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "revoke", doc)
			}
			for _, id := range doc.Revoked {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "revoked  %s\n", id); err != nil {
					return err
				}
			}
			cli.Note(cmd, "next: grid members")
			return nil
		},
	}
}

// findMember returns the key that text names: a member's name or any key.
func findMember(known membersDocument, text string) (ri2n.PeerID, error) {
	if id, err := ri2n.ParsePeerID(text); err == nil {
		return id, nil
	}
	label := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), ".grid"), "."+known.Grid.Name)
	for _, m := range known.Rows {
		if m.Name == label {
			return m.Peer, nil
		}
	}
	return ri2n.PeerID{}, &overlay.NameError{Name: text, Problem: "no member has it", Member: true}
}

// A gridMember asks questions about the grid: through the agent, or by itself.
type gridMember interface {
	members(ctx context.Context) (membersDocument, error)
	revocations(ctx context.Context) ([]byte, error)
	publish(ctx context.Context, list []byte) (sequence uint64, err error)
}

// withMember runs f with the agent of the state directory if it runs, and
// otherwise with a node that lives as long as f.
func (o *options) withMember(cmd *cobra.Command, f func(ctx context.Context, m gridMember) error) error {
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	agent, err := findAgent(dir)
	if err == nil {
		return f(cmd.Context(), agent)
	}
	if !errors.Is(err, errNoAgent) {
		return err
	}
	return o.withNode(cmd, dir, nodeUse{line: "grid join TOKEN, or grid members"}, func(node *overlay.Node) error {
		return f(cmd.Context(), ownMember{node})
	})
}

// ownMember is a node of this process.
type ownMember struct{ node *overlay.Node }

func (m ownMember) members(ctx context.Context) (membersDocument, error) {
	return listMembers(ctx, m.node)
}

func (m ownMember) revocations(ctx context.Context) ([]byte, error) { return m.node.Revocations(ctx) }

func (m ownMember) publish(ctx context.Context, list []byte) (uint64, error) {
	if err := m.node.Publish(ctx, list); err != nil {
		return 0, err
	}
	return m.node.Status().Grid.Revocations, nil
}

// memberTime bounds what a node asks its rendezvous for.
const memberTime = 15 * time.Second

func listMembers(ctx context.Context, node *overlay.Node) (membersDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, memberTime)
	defer cancel()
	rows, err := node.Members(ctx)
	if err != nil {
		return membersDocument{}, err
	}
	return membersDocument{Grid: node.Status().Grid, Rows: rows}, nil
}

// isMemberDir reports whether the node in dir belongs to a grid, so that names
// mean something.
func isMemberDir(dir string) bool {
	_, err := os.Stat(dir + string(os.PathSeparator) + "membership")
	return err == nil
}

// checkPeer refuses early what can be neither a peer ID nor, in a grid, a name.
func (o *options) checkPeer(dir, text string) error {
	if isMemberDir(dir) && membership.CheckName(strings.Split(strings.ToLower(text), ".")[0]) == nil {
		return nil
	}
	_, err := parsePeers([]string{text}, "")
	return err
}
