package main

import (
	"context"
	"net/http"
)

const (
	reloadPath = "/v1/reload"
	downPath   = "/v1/down"
)

// downAnswer is "instantgrid/down/1".
type downAnswer struct {
	Stopping bool     `json:"stopping"` // an agent ran, and ends
	Undone   []string `json:"undone"`   // what it had left behind on this computer
}

// serveAgent answers what is asked of the agent rather than of its node.
func (a *agent) serveAgent() {
	a.control.handle("POST "+reloadPath, func(w http.ResponseWriter, _ *http.Request) {
		doc, err := a.reload()
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, "reload", doc)
	})
	a.control.handle("POST "+downPath, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "down", downAnswer{Stopping: true, Undone: []string{}})
		_ = http.NewResponseController(w).Flush()
		a.stop()
	})
}

func (c *agentClient) reload(ctx context.Context) (doc reloadDocument, err error) {
	err = c.do(ctx, http.MethodPost, reloadPath, nil, &doc)
	return doc, err
}

func (c *agentClient) down(ctx context.Context) (doc downAnswer, err error) {
	err = c.do(ctx, http.MethodPost, downPath, nil, &doc)
	return doc, err
}
