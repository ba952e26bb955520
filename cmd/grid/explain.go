package main

import (
	"context"
	"errors"
	"net"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// explain gives the errors of our libraries object, cause, next command and
// exit code.
func explain(err error) *cli.Error {
	if e := explainTransfer(err); e != nil {
		return e
	}
	var explained rendezvous.Explained
	if !errors.As(err, &explained) {
		return nil
	}
	return &cli.Error{
		Object: explained.Object(),
		Cause:  explained.Cause(),
		Next:   explained.Next(),
		Code:   codeOf(err),
		Err:    err,
	}
}

// codeOf finds the exit code of an error that explains itself.
func codeOf(err error) int {
	var (
		address     *rendezvous.AddressError
		setting     *config.Error
		token       *rendezvous.TokenError
		refused     *rendezvous.RefusedError
		unreachable *rendezvous.UnreachableError
		mismatch    *ri2n.PeerMismatchError
		timeout     interface{ Timeout() bool }
	)
	var member *membership.Error
	var port *overlay.PortError
	var absent *store.NotFoundError
	var name *store.NameError
	switch {
	case errors.Is(err, context.Canceled):
		return cli.ExitInterrupted
	case errors.As(err, &member) && member.Problem == membership.BadToken:
		return cli.ExitUsage
	case errors.As(err, &member):
		return cli.ExitRefused
	case errors.As(err, &token) && token.Problem == rendezvous.TokenExpired:
		return cli.ExitRefused
	case errors.As(err, &address), errors.As(err, &token), errors.As(err, &setting):
		return cli.ExitUsage
	case errors.As(err, &refused) && (refused.Reason == rendezvous.ReasonUnknownPeer || refused.Reason == rendezvous.ReasonPeerGone):
		return cli.ExitUnreachable
	case errors.As(err, &absent):
		return cli.ExitUnreachable
	case errors.As(err, &name):
		return cli.ExitUsage
	case errors.As(err, &refused), errors.As(err, &port), errors.Is(err, ri2n.ErrRefused), errors.As(err, &mismatch):
		return cli.ExitRefused
	case errors.As(err, &unreachable), errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, ri2n.ErrStatelessReset):
		return cli.ExitUnreachable
	}
	return cli.ExitFailed
}

// explainTransfer knows the errors of package transfer.
func explainTransfer(err error) *cli.Error {
	var (
		told     *transfer.AbortError
		lost     *transfer.LostError
		protocol *transfer.ProtocolError
		version  *transfer.VersionError
		name     *transfer.NameError
		space    *transfer.SpaceError
		obstacle *transfer.ObstacleError
		changed  *transfer.ChangedError
		damaged  *transfer.IntegrityError
	)
	switch {
	case errors.As(err, &told):
		return explainAbort(told)
	case errors.As(err, &space):
		return &cli.Error{
			Object: space.Path, Cause: space.Cause(),
			Next: "make room and run the same command again: what has arrived is kept",
			Err:  err,
		}
	case errors.As(err, &obstacle):
		return explainObstacle(obstacle)
	case errors.As(err, &changed):
		return &cli.Error{
			Object: changed.Path, Cause: "it changed while it was being sent: " + changed.Detail,
			Next: "send it again once nothing writes to it", Err: err,
		}
	case errors.As(err, &damaged):
		return &cli.Error{
			Object: damaged.Path,
			Cause:  "the SHA-256 differs: " + damaged.Ours.String() + " here, " + damaged.Theirs.String() + " at the other end",
			Next:   "send it again; if it happens twice, check memory and disk of both computers",
			Code:   cli.ExitIntegrity, Err: err,
		}
	case errors.As(err, &name):
		return &cli.Error{
			Object: "file name \"" + name.Name + "\"", Cause: name.Problem,
			Next: "choose another: grid send --name NAME, or grid recv --name NAME", Err: err,
		}
	case errors.As(err, &version):
		return &cli.Error{
			Object: "the other side", Cause: version.Error(),
			Next: "upgrade the older of the two: grid version", Code: cli.ExitRefused, Err: err,
		}
	case errors.As(err, &protocol):
		return &cli.Error{
			Object: "the other side", Cause: "it breaks the protocol: " + protocol.Problem,
			Next: "compare the versions of both ends: grid version", Err: err,
		}
	case errors.As(err, &lost):
		return &cli.Error{
			Object: "the connection", Cause: "it was lost: " + innermost(lost.Err),
			Next: "run the same command again: what has arrived is kept", Code: cli.ExitUnreachable, Err: err,
		}
	}
	return nil
}

// innermost says what an error of a connection comes down to.
func innermost(err error) string {
	var explained rendezvous.Explained
	if errors.As(err, &explained) {
		return explained.Cause()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// explainAbort words the peer's reason, which is an exit code of its own only
// where the data is at fault.
func explainAbort(e *transfer.AbortError) *cli.Error {
	out := &cli.Error{Object: "the other side", Cause: e.Cause(), Code: cli.ExitRefused, Err: e}
	switch e.Code {
	case transfer.AbortSpace:
		out.Next = "make room there; then run the same command again: what has arrived is kept"
	case transfer.AbortExists:
		out.Next = "have it received under another name: grid recv --name NAME, or grid send --name NAME"
	case transfer.AbortName:
		out.Next = "choose another name: grid send --name NAME"
	case transfer.AbortIntegrity:
		out.Code = cli.ExitIntegrity
		out.Next = "send it again; if it happens twice, check memory and disk of both computers"
	case transfer.AbortProtocol:
		out.Next = "compare the versions of both ends: grid version"
	case transfer.AbortBusy:
		out.Next = "run the same command again when that is done"
	case transfer.AbortChanged, transfer.AbortRead, transfer.AbortWrite:
		out.Next = "look at the message of the other side; then run the same command again"
	default:
		out.Next = "run the same command again when the other side is ready: what has arrived is kept"
	}
	return out
}

func explainObstacle(e *transfer.ObstacleError) *cli.Error {
	out := &cli.Error{Object: e.Path, Cause: e.Problem, Err: e}
	if e.Other != "" {
		out.Next = "choose another name: --name " + e.Other + "; or replace it: --force"
	} else {
		out.Next = "look at it, move it away, or replace it: --force"
	}
	return out
}
