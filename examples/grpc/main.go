// Grpc is a gRPC service and its client over the grid: the client dials a member
// by name, and the service knows who calls from the session, without passwords or
// certificates of its own.
//
//	grpc -dir DIRECTORY serve
//	grpc -dir DIRECTORY count NAME TEXT
//
// The service has one method, count, from google.protobuf.StringValue to
// google.protobuf.Int64Value. Its description stands here as protoc would write
// it, so that the example needs no generated files.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/instantgrid/instantgrid/examples/internal/member"
	"github.com/instantgrid/instantgrid/overlay"
)

func main() {
	member.Main(func(ctx context.Context, node *overlay.Node, args []string) error {
		switch {
		case len(args) == 1 && args[0] == "serve":
			return serve(ctx, node)
		case len(args) == 3 && args[0] == "count":
			words, err := count(ctx, node, args[1], args[2])
			if err == nil {
				fmt.Println(words, "words")
			}
			return err
		}
		return errors.New("usage: grpc [flags] serve, or grpc [flags] count NAME TEXT")
	})
}

const (
	service = "instantgrid.example.Words"
	method  = "/" + service + "/Count"
	port    = "50051"
)

// A words counts words.
type words struct{ node *overlay.Node }

func (w words) Count(ctx context.Context, text *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
	from, known := peer.FromContext(ctx)
	caller, ours := from.Addr.(overlay.Addr) // verified: the session's
	if !known || !ours {
		return nil, status.Error(codes.Unauthenticated, "not over the grid")
	}
	name := caller.Peer.String()
	if m := w.node.MemberOf(caller.Peer); m != nil {
		name = m.Name
	}
	log.Printf("%s asks for %q", name, text.GetValue())
	return wrapperspb.Int64(int64(len(strings.Fields(text.GetValue())))), nil
}

// description is that of the service.
var description = grpc.ServiceDesc{
	ServiceName: service,
	HandlerType: (*interface {
		Count(context.Context, *wrapperspb.StringValue) (*wrapperspb.Int64Value, error)
	})(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Count",
		Handler: func(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			text := new(wrapperspb.StringValue)
			if err := decode(text); err != nil {
				return nil, err
			}
			call := func(ctx context.Context, request any) (any, error) {
				return server.(words).Count(ctx, request.(*wrapperspb.StringValue))
			}
			if intercept == nil {
				return call(ctx, text)
			}
			return intercept(ctx, text, &grpc.UnaryServerInfo{Server: server, FullMethod: method}, call)
		},
	}},
}

// serve answers until ctx ends.
func serve(ctx context.Context, node *overlay.Node) error {
	ln, err := node.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&description, words{node})
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(ln)
}

// count has a member count the words of text.
func count(ctx context.Context, node *overlay.Node, name, text string) (int64, error) {
	// passthrough: the overlay resolves the name, not DNS.
	conn, err := grpc.NewClient("passthrough:///"+name+":"+port,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the session below is encrypted
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return node.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer := new(wrapperspb.Int64Value)
	if err := conn.Invoke(ctx, method, wrapperspb.String(text), answer); err != nil {
		return 0, err
	}
	return answer.GetValue(), nil
}
