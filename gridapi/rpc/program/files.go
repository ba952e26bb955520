package program

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// unpack writes the files that a call brings.
func (p *program) unpack(dir string, argument io.Reader) error {
	switch len(p.cfg.In) {
	case 0:
		return nil // it is the standard input
	case 1:
		return p.write(dir, p.cfg.In[0], argument)
	}
	archive := tar.NewReader(argument)
	missing := slices.Clone(p.cfg.In)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("the argument is no archive of %v: %w", p.cfg.In, err)
		}
		i := slices.Index(missing, h.Name)
		if i < 0 || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("the argument holds %q, which is none of the files %v, or holds it twice", h.Name, p.cfg.In)
		}
		missing = slices.Delete(missing, i, i+1)
		if err := p.write(dir, h.Name, archive); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the argument lacks the files %v", missing)
	}
	return nil
}

// write makes one file of dir from r.
func (p *program) write(dir, name string, r io.Reader) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return busy(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return busy(err)
	}
	most := p.cfg.Disk
	if most < 0 {
		most = 1<<63 - 2
	}
	n, err := io.Copy(f, io.LimitReader(r, most+1))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if n > most {
		return fmt.Errorf("the argument has more than %d bytes", most)
	}
	var path2 *fs.PathError
	if errors.As(err, &path2) {
		return busy(err) // the disk, not the caller
	}
	return err
}

// pack sends the files that are the result.
func (p *program) pack(dir string, result io.Writer) error {
	switch len(p.cfg.Out) {
	case 0:
		return nil // it was the standard output
	case 1:
		f, err := p.open(dir, p.cfg.Out[0])
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(result, f)
		return err
	}
	archive := tar.NewWriter(result)
	for _, name := range p.cfg.Out {
		f, err := p.open(dir, name)
		if err != nil {
			return err
		}
		err = addFile(archive, name, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return archive.Close()
}

// addFile adds f to the archive with what matters of it, so that equal files
// make equal archives.
func addFile(archive *tar.Writer, name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.CopyN(archive, f, info.Size())
	return err
}

// open opens a file of the result. A link out of the directory is not followed,
// or a program could hand out its owner's files under a harmless name.
func (p *program) open(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, &Error{Program: filepath.Base(p.cfg.Path), Problem: "it ended well and left no file " + name}
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, &Error{Program: filepath.Base(p.cfg.Path), Problem: "what it left as " + name + " is no file"}
	}
	return f, nil
}

// busy is an error of this computer rather than of the call, which goes to
// another worker.
func busy(err error) error { return rpc.Busy(err.Error()) }
