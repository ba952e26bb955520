package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

const (
	lookupPath = "/v1/lookup"
	// lookupTime bounds a lookup and what follows from it.
	lookupTime = 30 * time.Second
)

// lookupDocument is "instantgrid/lookup/1".
type lookupDocument struct {
	overlay.LookupResult
	Name   *overlay.Announced `json:"name,omitempty"`   // what the members nearest to a name know of it
	Object *overlay.Object    `json:"object,omitempty"` // the location object at the key
}

func lookupCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "lookup NAME|KEY",
		Short: "Find a member, or a key of the grid's key space, through other members",
		Long: `Ask the members of the grid, nearer and nearer to it, for a name or a key, as the
running agent (grid up) does where no rendezvous helps. Shown are the members
nearest to the key, the nearest first; where the member of that name can be
reached; and the location object at the key, which says where a process of a job
runs. A key has 64 hexadecimal digits.`,
		Example: `grid lookup alice
grid lookup 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			agent, err := findAgent(dir)
			if errors.Is(err, errNoAgent) {
				return &cli.Error{Object: "agent", Cause: "none runs with the state directory " + dir, Next: "start it: grid up", Err: err}
			} else if err != nil {
				return err
			}
			var doc lookupDocument
			if err := agent.get(cmd.Context(), lookupPath+"?key="+url.QueryEscape(args[0]), &doc); err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "lookup", doc)
			}
			return writeLookup(cmd.OutOrStdout(), &doc)
		},
	}
}

// writeLookup writes doc for people.
func writeLookup(w io.Writer, doc *lookupDocument) error {
	fmt.Fprintf(w, "key         %s\n", doc.Key)
	if a := doc.Name; a != nil {
		fmt.Fprintf(w, "member      %s  %s\n", a.Name, a.Peer)
		for _, addr := range a.Addresses {
			fmt.Fprintf(w, "            at %s\n", addr)
		}
	}
	if x := doc.Object; x != nil {
		fmt.Fprintf(w, "object      rank %d, incarnation %d, on %s, lease %s\n", x.Rank, x.Incarnation, x.Holder, leaseText(x.Remaining))
	}
	for i, c := range doc.Closest {
		label := "nearest     "
		if i > 0 {
			label = "            "
		}
		fmt.Fprintf(w, "%s%s  %s\n", label, c.Peer, c.Name)
	}
	if doc.Crowded {
		fmt.Fprintf(w, "            suspiciously many members are near this key; %d were found beyond them\n", len(doc.Beyond))
	}
	_, err := fmt.Fprintf(w, "asked       %d members, the nearest after %d answers in a row\n", doc.Asked, doc.Hops)
	return err
}

func leaseText(remaining time.Duration) string {
	if remaining == 0 {
		return "ended: the process is gone"
	}
	return "ends in " + remaining.Round(time.Second).String() + " unless renewed"
}

// serveLookup answers GET /v1/lookup?key=NAME|KEY.
func serveLookup(mux *http.ServeMux, node *overlay.Node) {
	mux.HandleFunc("GET "+lookupPath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), lookupTime)
		defer cancel()
		doc, err := lookup(ctx, node, r.URL.Query().Get("key"))
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "lookup", doc)
	})
}

func lookup(ctx context.Context, node *overlay.Node, text string) (*lookupDocument, error) {
	doc := &lookupDocument{}
	key, isKey := parseKey(text)
	if !isKey {
		var err error
		if key, err = node.NameKey(text); err != nil {
			return nil, err
		}
	}
	var err error
	if doc.LookupResult, err = node.Lookup(ctx, key); err != nil {
		if errors.Is(err, overlay.ErrNoRouting) {
			return nil, &cli.Error{Object: "the agent", Cause: "it takes no part in routing: it belongs to no grid", Next: "join a grid: grid join TOKEN", Err: err}
		}
		return nil, err
	}
	if !isKey {
		a, err := node.FindName(ctx, text)
		if err != nil {
			return nil, err
		}
		doc.Name = &a
		return doc, nil
	}
	o, err := node.Objects().Get(ctx, key)
	switch {
	case err == nil:
		doc.Object = &o
	case !errors.Is(err, overlay.ErrObjectNotFound):
		return nil, err
	}
	return doc, nil
}

// parseKey returns the key that text spells.
func parseKey(text string) (key overlay.Key, ok bool) {
	b, err := hex.DecodeString(strings.ToLower(text))
	if err != nil || len(b) != len(key) {
		return key, false
	}
	return overlay.Key(b), true
}
