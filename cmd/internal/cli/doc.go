// Package cli is what the four programs have in common, so that they look and
// fail alike: one table of exit codes, errors that name object, cause and next
// command, JSON documents with a schema, help with examples, versions, man
// pages, and progress bars that know a terminal when they see one.
//
// A program builds its cobra tree and ends with
//
//	os.Exit(cli.Main(root))
//
// Commands return an error (a *[Error] when they can say what to do next), and
// print through [PrintJSON] when [JSON] is set. The context of a command ends
// at the first SIGINT or SIGTERM; the second kills the program.
//
// The standard output carries results only. Everything else goes to the
// standard error.
package cli
