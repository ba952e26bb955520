package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

func eventsCommand(o *options) *cobra.Command {
	var since string
	var watch bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened to the agent",
		Long: `Show what has happened to the running agent: peers that came and went, paths that
changed and why, the rendezvous, the revocation list. The agent keeps the newest
1000, or as many as events.keep says. With --json each is one line.`,
		Example: `grid events
grid events --since 10m --json
grid events --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := sinceTime(since, time.Now())
			if err != nil {
				return err
			}
			agent, err := o.needAgent()
			if err != nil {
				return err
			}
			return agent.eachEvent(cmd.Context(), from, watch, func(e numberedEvent) error {
				if cli.JSON(cmd) {
					return cli.PrintJSONLine(cmd, "event", e)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), eventText(e))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "only those since this `time`: 10m ago, or 2026-12-01T08:00:00Z (default all that are kept)")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with those to come")
	return cmd
}

// sinceTime reads a point in time: a duration before now, or a time.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, cli.Usagef("--since "+text, "grid events --since 10m", "it is neither a duration nor a time of RFC 3339")
	}
	return t, nil
}

// eventText is one event for people.
func eventText(e numberedEvent) string {
	text := e.Time.Local().Format("2006-01-02 15:04:05") + "  " + fmt.Sprintf("%-15s", e.Kind)
	if !e.Peer.IsZero() {
		text += "  " + e.Peer.Short()
	}
	if e.Path != nil {
		text += "  " + pathText(*e.Path)
		if e.Path.Kind != overlay.KindDirect && e.Path.Advice != "" {
			text += "; to make it direct: " + e.Path.Advice
		}
	}
	if e.Detail != "" {
		text += "  " + e.Detail
	}
	return text
}

// eachEvent calls f for each event that the agent keeps since a time, and with
// follow for those to come, until ctx or the agent ends.
func (a *agentClient) eachEvent(ctx context.Context, since time.Time, follow bool, f func(numberedEvent) error) error {
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	if follow {
		q.Set("follow", "true")
	}
	res, err := a.send(ctx, http.MethodGet, eventsPath+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewReader(io.LimitReader(res.Body, 1<<40))
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 && err == nil {
			var e numberedEvent
			if err := json.Unmarshal(line, &e); err != nil {
				return err
			}
			if err := f(e); err != nil {
				return err
			}
			continue
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF) && !follow:
			return nil // a watch has no other end
		default:
			return &cli.Error{Object: "the agent", Cause: "it has ended", Next: "start it again: grid up", Err: err}
		}
	}
}
