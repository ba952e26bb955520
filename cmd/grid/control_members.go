package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// resolveAnswer is "instantgrid/resolve/1".
type resolveAnswer struct {
	Peer ri2n.PeerID `json:"peer"`
}

// revocationsAnswer is "instantgrid/revocations/1".
type revocationsAnswer struct {
	List     []byte `json:"list"` // signed, encoded; null: there is none
	Sequence uint64 `json:"sequence"`
}

// openAnswer is "instantgrid/open/1".
type openAnswer struct {
	Names []string `json:"names"` // of members that the policy lets connect to a port
}

// openTo returns the members that are known and may connect to a port.
func openTo(node *overlay.Node, port uint16) []string {
	names := []string{}
	for _, m := range node.KnownMembers() {
		if !m.Self && node.MayOpen(m.Peer, port) {
			names = append(names, m.Name)
		}
	}
	return names
}

// serveMembers answers what members ask of the agent.
func serveMembers(mux *http.ServeMux, node *overlay.Node) {
	mux.HandleFunc("GET "+resolvePath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), memberTime)
		defer cancel()
		peer, err := node.Resolve(ctx, r.URL.Query().Get("name"))
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "resolve", resolveAnswer{peer})
	})
	mux.HandleFunc("GET "+membersPath, func(w http.ResponseWriter, r *http.Request) {
		doc, err := listMembers(r.Context(), node)
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "members", doc)
	})
	mux.HandleFunc("GET "+openPath, func(w http.ResponseWriter, r *http.Request) {
		port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
		if err != nil {
			answerError(w, cli.Usagef("port", "GET "+openPath+"?port=7010", "this is not a port"))
			return
		}
		answer(w, "open", openAnswer{openTo(node, uint16(port))})
	})
	list := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), memberTime)
		defer cancel()
		b, err := node.Revocations(ctx)
		if err != nil {
			answerError(w, err)
			return
		}
		var sequence uint64
		if g := node.Status().Grid; g != nil {
			sequence = g.Revocations
		}
		answer(w, "revocations", revocationsAnswer{b, sequence})
	}
	mux.HandleFunc("GET "+revocationsPath, list)
	mux.HandleFunc("POST "+revocationsPath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), memberTime)
		defer cancel()
		// The document of a GET comes back with another list in it.
		var doc revocationsAnswer
		b, err := io.ReadAll(io.LimitReader(r.Body, 2*membership.MaxRevocations))
		if err == nil {
			err = json.Unmarshal(b, &doc)
		}
		if err == nil {
			err = node.Publish(ctx, doc.List)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		list(w, r)
	})
}

func (a *agentClient) resolve(ctx context.Context, text string) (ri2n.PeerID, error) {
	if id, err := ri2n.ParsePeerID(text); err == nil {
		return id, nil
	}
	var doc resolveAnswer
	err := a.get(ctx, resolvePath+"?name="+url.QueryEscape(text), &doc)
	return doc.Peer, err
}

func (a *agentClient) members(ctx context.Context) (doc membersDocument, err error) {
	err = a.get(ctx, membersPath, &doc)
	return doc, err
}

func (a *agentClient) openTo(ctx context.Context, port uint16) ([]string, error) {
	var doc openAnswer
	err := a.get(ctx, fmt.Sprintf("%s?port=%d", openPath, port), &doc)
	return doc.Names, err
}

func (a *agentClient) revocations(ctx context.Context) ([]byte, error) {
	var doc revocationsAnswer
	err := a.get(ctx, revocationsPath, &doc)
	return doc.List, err
}

func (a *agentClient) publish(ctx context.Context, list []byte) (uint64, error) {
	b, err := json.Marshal(revocationsAnswer{List: list})
	if err != nil {
		return 0, err
	}
	var doc revocationsAnswer
	err = a.do(ctx, http.MethodPost, revocationsPath, bytes.NewReader(b), &doc)
	return doc.Sequence, err
}
