package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// bugReportDocument is "instantgrid/bugreport/1".
type bugReportDocument struct {
	File    string   `json:"file"`
	Entries []string `json:"entries"`
	Next    string   `json:"next"`
}

// reportReadme explains the report to whom it is given.
const reportReadme = `Instant Grid: report of one computer

grid bugreport has written this on the computer itself and sent it nowhere. Look
through it before you give it to anybody.

version.json     the program that wrote the report
doctor.json      what grid doctor says
status.json      what grid status --json says, with all counters; absent without a running agent
agent.json       the agent's settings, and its version; absent likewise
log.txt          the newest lines of the agent's log; absent likewise
events.jsonl     the newest events of the agent; absent likewise
config.txt       settings as the file gives them, comments left out
interfaces.json  network interfaces with their addresses and MTU
files.txt        names, sizes and permissions of the state directory, without content

It holds names and addresses: of this computer, its rendezvous, its peers, and the
members of its grid. It holds no key, token or other secret: the content of the
state directory is left out, and whatever is secret in it would be replaced by
[removed] wherever else it occurred.
`

func bugreportCommand(o *options) *cobra.Command {
	var output string
	c := new(configuration)
	cmd := &cobra.Command{
		Use:   "bugreport",
		Short: "Put what is needed to find a fault into a zip file",
		Long: `Write a zip file with what helps to find a fault: status, settings, counters,
events and log of the running agent, what grid doctor says, interfaces and
versions. A README inside says what is what. No key or token is in it, and it is
sent nowhere.`,
		Example: "grid bugreport\ngrid bugreport --output report.zip",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			entries, err := o.report(cmd.Context(), c)
			if err != nil {
				return err
			}
			if output == "" {
				output = "grid-bugreport-" + time.Now().UTC().Format("20060102T150405Z") + ".zip"
			}
			doc := bugReportDocument{File: output, Next: "look through it, then attach it to your report"}
			f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			w := zip.NewWriter(f)
			for _, e := range entries {
				doc.Entries = append(doc.Entries, e.name)
				part, err := w.Create(e.name)
				if err == nil {
					_, err = part.Write(e.content)
				}
				if err != nil {
					f.Close()
					return err
				}
			}
			if err := w.Close(); err != nil {
				f.Close()
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "bugreport", doc)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), output)
			cli.Note(cmd, "next: %s", doc.Next)
			return err
		},
	}
	cmd.Flags().StringVar(&c.path, "config", "", "`file` of settings (default config.yaml in the state directory, if it is there)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write (default grid-bugreport-TIME.zip here)")
	return cmd
}

// A reportEntry is one file of a report.
type reportEntry struct {
	name    string
	content []byte
}

// agentReport is "instantgrid/agent/1": what the agent knows of itself.
type agentReport struct {
	Settings [][2]string `json:"settings"` // field and value
	Log      []string    `json:"log"`
	cli.VersionInfo
}

const agentReportPath = "/v1/agent"

// serveReport answers grid bugreport.
func (a *agent) serveReport() {
	a.control.handle("GET "+agentReportPath, func(w http.ResponseWriter, _ *http.Request) {
		a.reloading.Lock()
		values := config.Values(a.settings.sections)
		a.reloading.Unlock()
		answer(w, "agent", agentReport{values, a.ring.all(), cli.Version("grid")})
	})
}

// report gathers the entries. What cannot be had is an entry that says why.
func (o *options) report(ctx context.Context, c *configuration) (entries []reportEntry, err error) {
	dir, err := o.stateDirName()
	if err != nil {
		return nil, err
	}
	secrets, err := secretsIn(dir)
	if err != nil {
		return nil, err
	}
	add := func(name string, content []byte) {
		entries = append(entries, reportEntry{name, secrets.remove(content)})
	}
	document := func(name, schema string, v any, err error) {
		b := []byte(nil)
		if err == nil {
			b, err = cli.AppendDocument(nil, schema, v)
		}
		if err != nil {
			b = fmt.Appendf(nil, "not to be had: %v\n", err)
		}
		var pretty bytes.Buffer
		if json.Indent(&pretty, b, "", "  ") == nil {
			b = pretty.Bytes()
		}
		add(name, b)
	}
	add("README.txt", []byte(reportReadme))
	document("version.json", "version", cli.Version("grid"), nil)
	doctor, err := o.examine(ctx, c)
	document("doctor.json", "doctor", doctor, err)
	if agent, err := findAgent(dir); err == nil {
		s, err := agent.status(ctx)
		document("status.json", "status", s, err)
		var self agentReport
		err = agent.get(ctx, agentReportPath, &self)
		add("log.txt", []byte(strings.Join(self.Log, "")))
		self.Log = nil
		document("agent.json", "agent", self, err)
		var lines []byte
		err = agent.eachEvent(ctx, time.Time{}, false, func(e numberedEvent) (err error) {
			lines, err = cli.AppendDocument(lines, "event", e)
			return err
		})
		if err != nil {
			lines = fmt.Appendf(lines, "not to be had: %v\n", err)
		}
		add("events.jsonl", lines)
	}
	if s, err := c.read(dir); err != nil {
		add("config.txt", fmt.Appendf(nil, "not read: %v\n", err))
	} else {
		var b []byte
		for _, field := range config.Values(s.sections) {
			b = fmt.Appendf(b, "%s: %s\n", field[0], field[1])
		}
		add("config.txt", b)
	}
	interfaces, err := interfaceRows()
	document("interfaces.json", "interfaces", map[string]any{"rows": interfaces}, err)
	add("files.txt", listFiles(dir))
	return entries, ctx.Err()
}

// An interfaceRow is one row of "instantgrid/interfaces/1".
type interfaceRow struct {
	Name      string   `json:"name"`
	MTU       int      `json:"mtu"`
	Flags     string   `json:"flags"`
	Addresses []string `json:"addresses"`
}

func interfaceRows() ([]interfaceRow, error) {
	list, err := net.Interfaces()
	rows := []interfaceRow{}
	for _, i := range list {
		r := interfaceRow{i.Name, i.MTU, i.Flags.String(), []string{}}
		addresses, _ := i.Addrs() // none is as good
		for _, a := range addresses {
			r.Addresses = append(r.Addresses, a.String())
		}
		rows = append(rows, r)
	}
	return rows, err
}

// listFiles lists a directory without what is in its files. Names of
// invitations are digests.
func listFiles(dir string) (b []byte) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			b = fmt.Appendf(b, "%s: %v\n", path, err)
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil // gone meanwhile
		}
		b = fmt.Appendf(b, "%v %9d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		return nil
	})
	if err != nil {
		b = fmt.Appendf(b, "%v\n", err)
	}
	return b
}
