package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

func putCommand(o *options) *cobra.Command {
	var name string
	var pin, durable bool
	cmd := &cobra.Command{
		Use:   "put FILE|-",
		Short: "Put data into the grid's store",
		Long: `Put a file, or with - the standard input, into the store of the running agent
(grid up --store MIB), and print its hash. Members of the grid get it by that, or by
its name: grid get. Equal parts of what was put before are not stored again, so that
a put that was broken off stores only the rest when it is repeated.

It ends when the data would survive a crash of this computer. They stay until room
is needed, and pinned ones for as long as they are pinned.

With --durable, it ends when other members keep enough parts of it that any two of
them may go, and this computer: 6 members for what has a mebibyte or more, of whom
any 4 suffice, and 3 for less. They watch each other, and make anew what is lost.

A name means what was put under it last. NAME/... is for the member NAME only.`,
		Example: `grid put matrix.bin --name matrix --pin
grid put matrix.bin --name matrix --durable
tar c results | grid put - --name results`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name != "" {
				if err := store.CheckName(name); err != nil {
					return err
				}
			}
			from, label, size := cmd.InOrStdin(), "-", int64(0)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				info, err := f.Stat()
				if err != nil {
					return err
				}
				if info.IsDir() {
					return cli.Usagef(args[0], "tar c "+args[0]+" | grid put -", "it is a directory")
				}
				from, label, size = f, filepath.Base(args[0]), info.Size()
			}
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			bar := cli.NewProgress(cmd.ErrOrStderr(), label, size, 0)
			defer bar.Close()
			doc, err := agent.put(cmd.Context(), &counting{from: from, done: bar.Set}, name, label, pin)
			bar.Close()
			if err != nil {
				return err
			}
			if durable {
				parts, err := protect(cmd, agent, doc.ID.String())
				if err != nil {
					return err
				}
				doc.Durable = &parts.redundancy
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-put", doc)
			}
			cli.Note(cmd, "%s in %d chunks, %d of them new: %s on the disk", sizeText(doc.Size), doc.Chunks, doc.Fresh, sizeText(doc.Stored))
			if doc.Durable != nil {
				cli.Note(cmd, "%d other members keep a part each; any %d suffice", doc.Durable.Slots, doc.Durable.Need)
			} else if !pin {
				cli.Note(cmd, "it stays until room is needed; to keep it: grid pin %s", doc.ID)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), doc.ID)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`name` under which members find it")
	cmd.Flags().BoolVar(&pin, "pin", false, "keep it until it is unpinned or removed")
	cmd.Flags().BoolVar(&durable, "durable", false, "have other members keep parts of it, so that any two of them may go")
	return cmd
}

// protect has an object made durable, and shows how far it is.
func protect(cmd *cobra.Command, agent *agentClient, object string) (storeProtectAnswer, error) {
	var bar *cli.Progress
	defer func() {
		if bar != nil {
			bar.Close()
		}
	}()
	return agent.protect(cmd.Context(), object, func(p storeProgress) {
		if bar == nil {
			bar = cli.NewTally(cmd.ErrOrStderr(), "durable", int64(p.All), 0)
		}
		bar.Set(int64(p.Done))
	})
}

// counting tells how much was read.
type counting struct {
	from io.Reader
	n    int64
	done func(int64)
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	c.done(c.n)
	return n, err
}

// storeGetDocument is "instantgrid/store-get/1".
type storeGetDocument struct {
	store.Object
	File    string  `json:"file"`
	Seconds float64 `json:"seconds"`
}

func getCommand(o *options) *cobra.Command {
	var output string
	var force bool
	cmd := &cobra.Command{
		Use:   "get NAME|HASH",
		Short: "Get data from the grid's store",
		Long: `Get what a name or a hash means, through the running agent (grid up --store MIB),
which fetches what it does not have from the members that do. Every part is verified.
The file appears once it is whole; a get that was broken off fetches only the rest
when it is repeated.`,
		Example: `grid get matrix
grid get results -o - | tar x`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				output = filepath.Base(args[0])
				if _, err := chunk.Parse(args[0]); err == nil {
					output = args[0][:16]
				}
			}
			if output == "-" && cli.JSON(cmd) {
				return cli.Usagef("--json", "grid get "+args[0]+" -o FILE --json", "the data and the document would both go to the standard output")
			}
			if _, err := os.Lstat(output); err == nil && output != "-" && !force {
				return cli.Usagef(output, "grid get "+args[0]+" -o OTHER, or --force", "there is a file of that name")
			}
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			begun := time.Now()
			x, err := getTo(cmd, agent, args[0], output)
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-get", storeGetDocument{x, output, time.Since(begun).Seconds()})
			}
			if output == "-" {
				return nil
			}
			cli.Note(cmd, "%s in %s", sizeText(x.Size), secondsText(time.Since(begun)))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), output)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write, - for the standard output (default the name's last part, or the hash's first digits)")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return cmd
}

// getTo writes an object to a file, or to the standard output.
func getTo(cmd *cobra.Command, agent *agentClient, text, output string) (x store.Object, err error) {
	x, res, err := agent.object(cmd.Context(), text)
	if err != nil {
		return x, err
	}
	defer res.Body.Close()
	to := cmd.OutOrStdout()
	var f *os.File
	draft := output + ".part"
	if output != "-" {
		if f, err = os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666); err != nil {
			return x, err
		}
		defer os.Remove(draft)
		defer f.Close()
		to = f
	}
	bar := cli.NewProgress(cmd.ErrOrStderr(), filepath.Base(output), x.Size, 0)
	defer bar.Close()
	n, err := io.Copy(to, &counting{from: res.Body, done: bar.Set})
	bar.Close()
	if ctx := cmd.Context(); err != nil && ctx.Err() != nil {
		return x, ctx.Err()
	}
	var file *os.PathError
	if errors.As(err, &file) {
		return x, err
	}
	if broken := whole(res, x, n); broken != nil || err != nil {
		return x, errors.Join(broken, err)
	}
	if f == nil {
		return x, nil
	}
	if err := f.Sync(); err != nil {
		return x, err
	}
	if err := f.Close(); err != nil {
		return x, err
	}
	return x, os.Rename(draft, output)
}

func lsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List what is in the grid's store",
		Long: `List what was put here or pinned here, and what the names mean that this computer
has heard of, the newest first. HELD is how much of it is on this computer;
DURABLE how many of the parts that other members keep are there now, and of how many,
as far as this computer has heard of it.`,
		Example: "grid ls --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			doc, err := agent.storeList(cmd.Context())
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-list", doc)
			}
			return writeStoreList(cmd.OutOrStdout(), doc.Rows)
		},
	}
}

// writeStoreList writes a table.
func writeStoreList(to io.Writer, rows []storeRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(to, "nothing")
		return err
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HASH\tSIZE\tHELD\tPINNED\tDURABLE\tADDED\tNAMES OR LABEL")
	for _, x := range rows {
		held, pinned, called := "unknown", "no", strings.Join(x.Names, " ")
		if x.Chunks > 0 {
			held = fmt.Sprintf("%d %%", 100*x.Held/x.Chunks)
		}
		if x.Pinned {
			pinned = "yes"
		}
		if called == "" {
			called = "(" + x.Label + ")"
		}
		durable := "no"
		if d := x.Durable; d != nil {
			durable = fmt.Sprintf("%d/%d", d.There, d.Slots)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.ID, sizeText(x.Size), held, pinned, durable, x.Added.UTC().Format("2006-01-02 15:04"), called)
	}
	return w.Flush()
}

func pinCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "pin NAME|HASH",
		Short: "Keep something of the grid's store on this computer",
		Long: `Fetch what is missing of it, and keep it on this computer until it is unpinned or
removed, however much room other data need.`,
		Example: "grid pin matrix",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return o.pinOrUnpin(cmd, args[0], storePinPath) },
	}
}

func unpinCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "unpin NAME|HASH",
		Short:   "Let something of the grid's store go when room is needed",
		Long:    "Let the store give it up when it needs room. It stays on the list, and until then where it is.",
		Example: "grid unpin matrix",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return o.pinOrUnpin(cmd, args[0], storeUnpinPath) },
	}
}

func (o *options) pinOrUnpin(cmd *cobra.Command, object, path string) error {
	agent, err := o.needAgent()
	if err != nil {
		return err
	}
	label := object
	if _, err := chunk.Parse(object); err == nil {
		label = ""
	}
	doc, err := agent.pin(cmd.Context(), path, object, label)
	if err != nil {
		return err
	}
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "store-"+filepath.Base(path), doc)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), doc.ID)
	return err
}

func rmCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME|HASH...",
		Short: "Remove something from the store of this computer",
		Long: `Take it off the list, unpin it, and delete what nothing else on the list shares. A
name that is given means nothing any more, for every member. Copies that other
members have stay with them.`,
		Example: "grid rm results",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			doc, err := agent.remove(cmd.Context(), args)
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-remove", doc)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %d objects and %d names\n", doc.Objects, len(doc.Names))
			return err
		},
	}
}

func storeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "store",
		Short:   "Show the store of this computer, make its key, and make data durable",
		Example: "grid store status",
	}
	cmd.AddCommand(storeStatusCommand(o), storeKeyCommand(o), storeProtectCommand(o))
	return cmd
}

func storeProtectCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "protect NAME|HASH",
		Short: "Have other members keep parts of something, so that any two may go",
		Long: `Do for something that is in the store what grid put --durable does: have six other
members keep a part each, of which any four suffice, or three a copy each of what has
less than a mebibyte. What is missing here is fetched first. What is durable already
stays as it is.`,
		Example: "grid store protect matrix",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			doc, err := protect(cmd, agent, args[0])
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-protect", doc)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PART\tMEMBERS")
			for i, names := range doc.Holders {
				fmt.Fprintf(w, "%d\t%s\n", i+1, strings.Join(names, " "))
			}
			return w.Flush()
		},
	}
}

func storeStatusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how full the store is, and what it has sent and received",
		Long: `Show what the store of the running agent keeps, how much room that takes, the
fingerprint of its key, which must be the same on all members, and what it has
exchanged with members.`,
		Example: "grid store status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			doc, err := agent.storeStatus(cmd.Context())
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-status", doc)
			}
			return writeStoreStatus(cmd.OutOrStdout(), doc)
		},
	}
}

func writeStoreStatus(w io.Writer, s storeStatusAnswer) error {
	fmt.Fprintf(w, "objects     %d listed, %d pinned, %d names\n", s.Objects, s.Pinned, s.Names)
	fmt.Fprintf(w, "chunks      %d, %s\n", s.Chunks, sizeText(s.Live))
	fmt.Fprintf(w, "disk        %s of %s in %d segments; index %s of memory\n", sizeText(s.Disk), sizeText(s.Quota), s.Segments, sizeText(s.Index))
	fmt.Fprintf(w, "key         %s\n", s.Key)
	fmt.Fprintf(w, "on the LAN  %s in, %s out\n", sizeText(int64(s.Swarm.LANBytesIn)), sizeText(int64(s.Swarm.LANBytesOut)))
	fmt.Fprintf(w, "elsewhere   %s in, %s out\n", sizeText(int64(s.Swarm.WANBytesIn)), sizeText(int64(s.Swarm.WANBytesOut)))
	d := s.Durable
	fmt.Fprintf(w, "durable     parts of %d objects kept for members in %d chunks; %d degraded, %d unreadable now; %d repaired\n", d.Objects, d.Kept, d.Degraded, d.Unreadable, d.Repairs)
	fmt.Fprintf(w, "members     %d other stores on %d sites answer\n", d.Stores, d.Sites)
	_, err := fmt.Fprintf(w, "trouble     %d damaged, %d evicted, %d full, %d poisoned, %d records of names refused\n", s.Damaged, s.Evicted, s.Full, s.Swarm.Poisoned, s.RefusedRecords)
	return err
}

// storeKeyDocument is "instantgrid/store-key/1".
type storeKeyDocument struct {
	File        string `json:"file"`
	Fingerprint string `json:"fingerprint"`
	Made        bool   `json:"made"` // by this command
}

func storeKeyCommand(o *options) *cobra.Command {
	var fresh, set, show bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Show, make or copy the key of the grid's store",
		Long: `Show the fingerprint of the key with which all that is put is sealed. One member
makes it, once for the whole grid, with --new. An agent without one asks the members
whose policy opens the ports 30 and 31 to it. Where none does, copy it by hand: --show
prints it there, and --set reads it from the standard input here.

Who has the key can read all that was put with it. Without it, what is in the store
is lost: keep a copy.`,
		Example: "grid store key --new\ngrid store key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			c := configuration{}
			s, err := c.read(dir)
			if err != nil {
				return err
			}
			doc := storeKeyDocument{File: s.store.keyFile(dir), Made: fresh || set}
			var k store.Key
			switch {
			case fresh:
				k = store.NewKey()
				err = writeStoreKey(doc.File, k)
			case set:
				b, e := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4096))
				if err = e; err == nil {
					k, err = store.ParseKey(string(b))
				}
				if err != nil {
					return cli.Usagef("the key", "print it on a member that has it: grid store key --show", "%v", err)
				}
				err = writeStoreKey(doc.File, k)
			default:
				k, err = readStoreKey(doc.File)
			}
			switch {
			case errors.Is(err, os.ErrExist):
				return &cli.Error{Object: doc.File, Cause: "there is a key, and what was put with it could not be read without it", Next: "see it: grid store key; or move the file away yourself", Code: cli.ExitUsage, Err: err}
			case errors.Is(err, os.ErrNotExist) && !doc.Made:
				return &cli.Error{Object: doc.File, Cause: "there is no key", Next: "make it, once for the grid: grid store key --new", Err: err}
			case err != nil:
				return err
			}
			doc.Fingerprint = k.Fingerprint()
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "store-key", doc)
			}
			if show {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), k.Encode())
				return err
			}
			if doc.Made {
				cli.Note(cmd, "the key is in %s; keep a copy of it", doc.File)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), doc.Fingerprint)
			return err
		},
	}
	cmd.Flags().BoolVar(&fresh, "new", false, "make a key")
	cmd.Flags().BoolVar(&set, "set", false, "take the key from the standard input")
	cmd.Flags().BoolVar(&show, "show", false, "print the key itself, which is a secret")
	cmd.MarkFlagsMutuallyExclusive("new", "set", "show")
	return cmd
}
