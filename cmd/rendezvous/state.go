package main

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	keyFile = "key.pem"
	keyType = "INSTANTGRID IDENTITY SEED"
)

// stateDir returns where the key is kept when --dir does not say.
func stateDir(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" { // systemd
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/instantgrid-rendezvous", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "instantgrid", "rendezvous"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &cli.Error{Object: "--dir", Cause: "this user has no home directory", Next: "rendezvous --dir DIRECTORY", Err: err}
	}
	return filepath.Join(home, ".local", "state", "instantgrid", "rendezvous"), nil
}

// loadIdentity reads the key in dir. At the first start it makes one, unless
// fresh is false; then it returns nil and no error.
func loadIdentity(dir string, fresh bool) (*ri2n.Identity, error) {
	path := filepath.Join(dir, keyFile)
	id, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) || !fresh {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return id, err
	}
	if id, err = ri2n.NewIdentity(rand.Reader); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: id.Seed()})); err != nil {
		if errors.Is(err, fs.ErrExist) { // another start was faster: one key for both
			return readIdentity(path)
		}
		return nil, err
	}
	return id, nil
}

func readIdentity(path string) (*ri2n.Identity, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	bad := func(cause string) error {
		return &cli.Error{
			Object: path,
			Cause:  cause,
			Next:   "restore it from a backup; or move it away, and give every agent the new address",
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 { // Windows has other means
		return nil, &cli.Error{
			Object: path,
			Cause:  fmt.Sprintf("other users can read this key (mode %04o)", info.Mode().Perm()),
			Next:   "chmod 600 " + path,
		}
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != keyType {
		return nil, bad("the key file is damaged: it holds no " + keyType)
	}
	id, err := ri2n.IdentityFromSeed(block.Bytes)
	if err != nil {
		return nil, bad("the key file is damaged: " + err.Error())
	}
	return id, nil
}

// writeNew puts a file in place, whole and readable by its owner alone, unless
// there is one.
func writeNew(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Link(tmp.Name(), path)
}
