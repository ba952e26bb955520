package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Data is what all calls need: here the matrix. A call carries its name, which
// is the SHA-256 of the content, and a worker gets it once.
type Data interface {
	Put(ctx context.Context, content []byte) (name string, err error)
	Get(ctx context.Context, name string) ([]byte, error)
}

func nameOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Memory is Data within one process.
type Memory struct{ content sync.Map }

// Put implements [Data].
func (m *Memory) Put(_ context.Context, content []byte) (string, error) {
	name := nameOf(content)
	m.content.Store(name, content)
	return name, nil
}

// Get implements [Data].
func (m *Memory) Get(_ context.Context, name string) ([]byte, error) {
	if b, ok := m.content.Load(name); ok {
		return b.([]byte), nil
	}
	return nil, fmt.Errorf("there is no data %s", name)
}

// Directory is Data in a directory that master and workers share.
type Directory string

// Put implements [Data].
func (d Directory) Put(_ context.Context, content []byte) (string, error) {
	name := nameOf(content)
	f, err := os.CreateTemp(string(d), ".data-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return name, os.Rename(f.Name(), filepath.Join(string(d), name))
}

// Get implements [Data]. What has another SHA-256 than its name says is refused.
func (d Directory) Get(_ context.Context, name string) ([]byte, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%q is no name of data", name)
	}
	b, err := os.ReadFile(filepath.Join(string(d), name))
	if err == nil && nameOf(b) != name {
		err = fmt.Errorf("data %s is damaged", name)
	}
	return b, err
}
