package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
)

const (
	storePutPath    = "/v1/store/put"
	storeGetPath    = "/v1/store/get"
	storeListPath   = "/v1/store/list"
	storePinPath    = "/v1/store/pin"
	storeUnpinPath  = "/v1/store/unpin"
	storeRemovePath = "/v1/store/remove"
	storeStatusPath = "/v1/store/status"

	storeProtectPath = "/v1/store/protect"

	// Of the answer to a get: what comes, and behind it why it is not whole.
	storeObjectHeader = "Grid-Object"
	storeSizeHeader   = "Grid-Size"
	storeErrorTrailer = "Grid-Error"
)

// storePutAnswer is "instantgrid/store-put/1".
type storePutAnswer struct {
	store.PutResult
	Label  string `json:"label,omitempty"`
	Pinned bool   `json:"pinned"`

	Durable *redundancy `json:"durable,omitempty"` // of a put that is
}

// storeListAnswer is "instantgrid/store-list/1".
type storeListAnswer struct {
	Rows []storeRow `json:"rows"`
}

type storeRow struct {
	store.Listed
	Durable *redundancy `json:"durable,omitempty"` // nil: as far as is known here, it is not
}

// storePinAnswer is "instantgrid/store-pin/1" and "instantgrid/store-unpin/1".
type storePinAnswer struct {
	ID     chunk.ID `json:"id"`
	Size   int64    `json:"size_bytes,omitempty"`
	Pinned bool     `json:"pinned"`
}

// storeProtectAnswer is "instantgrid/store-protect/1".
type storeProtectAnswer struct {
	ID chunk.ID `json:"id"`
	redundancy
	Holders [][]string `json:"holders"` // of each part
}

// A storeProgress is a line of the answer to a protect, before the document.
type storeProgress struct {
	Done int `json:"done"` // stripes that others keep
	All  int `json:"all"`
}

// storeRemoveAnswer is "instantgrid/store-remove/1".
type storeRemoveAnswer struct {
	Objects int      `json:"objects"` // that were on the list
	Names   []string `json:"names"`   // that mean nothing any more
}

// storeStatusAnswer is "instantgrid/store-status/1".
type storeStatusAnswer struct {
	store.Status
	Swarm   swarm.Counters       `json:"swarm"`
	Members []swarm.PeerCounters `json:"members"`
	Durable durableStatus        `json:"durable"`
}

// serve answers what is asked of the store.
func (x *storeService) serve(control *controlServer) {
	control.handle("POST "+storePutPath, func(w http.ResponseWriter, r *http.Request) {
		s, network, err := x.need()
		if err != nil {
			answerError(w, err)
			return
		}
		q := r.URL.Query()
		o := store.PutOptions{Name: q.Get("name"), Label: q.Get("label"), Pin: q.Get("pin") == "true", List: true}
		result, err := s.Put(r.Context(), r.Body, o)
		if err != nil {
			answerError(w, err)
			return
		}
		network.Announce(result.ID)
		answer(w, "store-put", storePutAnswer{PutResult: result, Label: o.Label, Pinned: o.Pin})
	})
	control.handle("GET "+storeGetPath, x.serveGet)
	control.handle("GET "+storeListPath, func(w http.ResponseWriter, r *http.Request) {
		s, _, err := x.need()
		var list []store.Listed
		if err == nil {
			list, err = s.List()
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "store-list", storeListAnswer{x.withRedundancy(r.Context(), list)})
	})
	// found calls f with the object that the request names.
	found := func(f func(w http.ResponseWriter, r *http.Request, s *store.Store, id chunk.ID) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s, _, err := x.need()
			var id chunk.ID
			if err == nil {
				id, err = s.Find(r.Context(), r.URL.Query().Get("object"))
			}
			if err == nil {
				err = f(w, r, s, id)
			}
			if err != nil {
				answerError(w, err)
			}
		}
	}
	control.handle("POST "+storePinPath, found(func(w http.ResponseWriter, r *http.Request, s *store.Store, id chunk.ID) error {
		o, err := s.Pin(durable.WithObject(r.Context(), id), id, r.URL.Query().Get("label"))
		if err == nil {
			answer(w, "store-pin", storePinAnswer{id, o.Size, true})
		}
		return err
	}))
	control.handle("POST "+storeUnpinPath, found(func(w http.ResponseWriter, _ *http.Request, s *store.Store, id chunk.ID) error {
		err := s.Unpin(id)
		if err == nil {
			answer(w, "store-unpin", storePinAnswer{ID: id})
		}
		return err
	}))
	control.handle("POST "+storeRemovePath, func(w http.ResponseWriter, r *http.Request) {
		s, _, err := x.need()
		var doc storeRemoveAnswer
		if err == nil {
			doc, err = removeObjects(r.Context(), s, r.URL.Query()["object"])
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "store-remove", doc)
	})
	control.handle("POST "+storeProtectPath, x.serveProtect)
	control.handle("GET "+storeStatusPath, func(w http.ResponseWriter, _ *http.Request) {
		doc, err := x.askStatus()
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "store-status", doc)
	})
}

func (x *storeService) askStatus() (doc storeStatusAnswer, err error) {
	s, network, err := x.need()
	if err == nil {
		doc.Status, err = s.Status()
	}
	if err != nil {
		return doc, err
	}
	doc.Swarm, doc.Members, doc.Durable = network.Counters(), network.Peers(), x.durability().status()
	if doc.Members == nil {
		doc.Members = []swarm.PeerCounters{}
	}
	return doc, nil
}

// status is askStatus for those whom the reason does not concern.
func (x *storeService) status() (storeStatusAnswer, bool) {
	doc, err := x.askStatus()
	return doc, err == nil
}

// serveGet answers with the object itself.
func (x *storeService) serveGet(w http.ResponseWriter, r *http.Request) {
	s, _, err := x.need()
	var o store.Object
	if err == nil {
		if o.ID, err = s.Find(r.Context(), r.URL.Query().Get("object")); err == nil {
			o, err = s.Stat(durable.WithObject(r.Context(), o.ID), o.ID)
		}
	}
	if err != nil {
		answerError(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Trailer", storeErrorTrailer)
	h.Set(storeObjectHeader, o.ID.String())
	h.Set(storeSizeHeader, strconv.FormatInt(o.Size, 10))
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return
	}
	if _, err := s.Get(durable.WithObject(r.Context(), o.ID), o.ID, w, store.GetOptions{}); err != nil {
		if doc, e := json.Marshal(errorOf(err)); e == nil {
			h.Set(storeErrorTrailer, string(doc))
		}
	}
}

// serveProtect answers with lines of JSON: how far it is, and at the end a
// document, which may be an error.
func (x *storeService) serveProtect(w http.ResponseWriter, r *http.Request) {
	s, _, err := x.need()
	var id chunk.ID
	if err == nil {
		id, err = s.Find(r.Context(), r.URL.Query().Get("object"))
	}
	if err != nil {
		answerError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	var doc storeProtectAnswer
	if doc, err = x.durability().protect(r.Context(), id, func(done, all int) {
		if out.Encode(storeProgress{done, all}) == nil {
			_ = flush.Flush() // who has gone away shows in the context
		}
	}); err == nil {
		err = writeLine(w, "store-protect", doc)
	} else {
		err = writeLine(w, "error", errorOf(err))
	}
	if err != nil {
		panic(http.ErrAbortHandler) // so that the client sees that it is not whole
	}
}

// writeLine writes a document in one line.
func writeLine(w io.Writer, name string, v any) error {
	b, err := cli.AppendDocument(nil, name, v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// removeObjects takes objects off the list. What is given by name loses the name
// as well.
func removeObjects(ctx context.Context, s *store.Store, texts []string) (storeRemoveAnswer, error) {
	doc := storeRemoveAnswer{Names: []string{}}
	var ids []chunk.ID
	for _, text := range texts {
		id, err := s.Find(ctx, text)
		if err != nil {
			return doc, err
		}
		ids = append(ids, id)
		if _, err := chunk.Parse(text); err != nil {
			doc.Names = append(doc.Names, text)
		}
	}
	for _, name := range doc.Names {
		if _, err := s.SetName(ctx, name, store.Object{}); err != nil {
			return doc, err
		}
	}
	var err error
	doc.Objects, err = s.Remove(ids...)
	return doc, err
}

func (a *agentClient) put(ctx context.Context, from io.Reader, name, label string, pin bool) (doc storePutAnswer, err error) {
	q := url.Values{"name": {name}, "label": {label}, "pin": {strconv.FormatBool(pin)}}
	err = a.do(ctx, http.MethodPost, storePutPath+"?"+q.Encode(), from, &doc)
	return doc, err
}

// protect has an object made durable, and returns once it is.
func (a *agentClient) protect(ctx context.Context, object string, progress func(storeProgress)) (doc storeProtectAnswer, err error) {
	res, err := a.send(ctx, http.MethodPost, storeProtectPath+"?object="+url.QueryEscape(object), nil)
	if err != nil {
		return doc, err
	}
	defer res.Body.Close()
	lines := json.NewDecoder(res.Body)
	for {
		var line struct {
			Schema string
			storeProgress
			storeProtectAnswer
			errorAnswer
		}
		switch err := lines.Decode(&line); {
		case ctx.Err() != nil:
			return doc, ctx.Err()
		case err != nil:
			return doc, errors.New("the agent has broken off; see whether it still runs: grid status")
		case line.Error.Object != "":
			return doc, line.asError()
		case line.Schema != "":
			return line.storeProtectAnswer, nil
		}
		progress(line.storeProgress)
	}
}

// object asks for an object. The caller reads it from the body, to its end, and
// then calls whole.
func (a *agentClient) object(ctx context.Context, text string) (o store.Object, res *http.Response, err error) {
	res, err = a.send(ctx, http.MethodGet, storeGetPath+"?object="+url.QueryEscape(text), nil)
	if err != nil {
		return o, nil, err
	}
	if o.ID, err = chunk.Parse(res.Header.Get(storeObjectHeader)); err == nil {
		o.Size, err = strconv.ParseInt(res.Header.Get(storeSizeHeader), 10, 64)
	}
	if err != nil {
		res.Body.Close()
		return o, nil, a.mismatch(ctx, res.Status)
	}
	return o, res, nil
}

// whole returns why the object that was read is not whole, if it is not.
func whole(res *http.Response, o store.Object, n int64) error {
	if text := res.Trailer.Get(storeErrorTrailer); text != "" {
		var doc errorAnswer
		if err := json.Unmarshal([]byte(text), &doc); err == nil {
			return doc.asError()
		}
	}
	if n != o.Size {
		return errors.New("the agent has broken off; see whether it still runs: grid status")
	}
	return nil
}

func (a *agentClient) storeList(ctx context.Context) (doc storeListAnswer, err error) {
	err = a.get(ctx, storeListPath, &doc)
	return doc, err
}

func (a *agentClient) storeStatus(ctx context.Context) (doc storeStatusAnswer, err error) {
	err = a.get(ctx, storeStatusPath, &doc)
	return doc, err
}

func (a *agentClient) pin(ctx context.Context, path, object, label string) (doc storePinAnswer, err error) {
	err = a.do(ctx, http.MethodPost, path+"?"+url.Values{"object": {object}, "label": {label}}.Encode(), nil, &doc)
	return doc, err
}

func (a *agentClient) remove(ctx context.Context, objects []string) (doc storeRemoveAnswer, err error) {
	err = a.do(ctx, http.MethodPost, storeRemovePath+"?"+url.Values{"object": objects}.Encode(), nil, &doc)
	return doc, err
}
