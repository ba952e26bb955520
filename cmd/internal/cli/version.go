package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A VersionInfo says which program this is, from what the Go tool stamped into
// it: the document "instantgrid/version/1".
type VersionInfo struct {
	Program  string `json:"program"`
	Version  string `json:"version"`  // a release's tag, or a pseudo-version
	Revision string `json:"revision"` // of the source; empty when built outside a repository
	Time     string `json:"time"`     // of the revision, RFC 3339
	Modified bool   `json:"modified"` // the source differed from the revision
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

// Version returns the versions of the running program.
func Version(program string) VersionInfo {
	v := VersionInfo{Program: program, Version: "(devel)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func versionCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: root.Name() + " version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			v := Version(root.Name())
			if JSON(cmd) {
				return PrintJSON(cmd, "version", v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s (%s, %s/%s)\n", v.Program, v.Version, v.Go, v.OS, v.Arch)
			return err
		},
	}
}
