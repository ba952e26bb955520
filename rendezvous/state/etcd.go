package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/instantgrid/instantgrid/rendezvous/ledger"
)

const (
	// etcdTime bounds one question to etcd.
	etcdTime = 5 * time.Second
	// maxTries bounds the repetitions of a transaction that others got in
	// the way of.
	maxTries = 200
	// etcdPage is how many keys a range reads at once.
	etcdPage = 256
)

// An etcdStore is a store in etcd, below one prefix.
type etcdStore struct {
	client *clientv3.Client
	prefix string
	once   sync.Once
}

// EtcdConfig configures [OpenEtcd].
type EtcdConfig struct {
	Endpoints []string // "http://127.0.0.1:2379"
	Prefix    string   // of all keys; empty: "instantgrid/"
}

// OpenEtcd connects to etcd, and fails if nobody answers within five seconds.
// Transactions are optimistic: they are repeated when another server has
// changed what they read.
func OpenEtcd(ctx context.Context, cfg EtcdConfig) (ledger.Store, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "instantgrid/"
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          etcdTime,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("state: etcd: %w", err)
	}
	s := &etcdStore{client: c, prefix: cfg.Prefix}
	if _, err := s.Revision(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// revisionKey is written by every transaction, so that its revision is that of
// the last one.
const revisionKey = "revision"

func (s *etcdStore) Revision(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTime)
	defer cancel()
	r, err := s.client.Get(ctx, s.prefix+revisionKey)
	if err != nil {
		return 0, fmt.Errorf("state: etcd: %w", err)
	}
	if len(r.Kvs) == 0 {
		return 0, nil
	}
	return uint64(r.Kvs[0].ModRevision), nil
}

// An etcdTx remembers what it has read, all of one revision, and what it is to
// write.
type etcdTx struct {
	ctx      context.Context
	s        *etcdStore
	revision int64 // of the first read; zero: nothing was read
	read     map[string]int64
	values   map[string][]byte
	writes   map[string][]byte // nil value: deleted
}

func (t *etcdTx) Get(key string) ([]byte, error) {
	if v, written := t.writes[key]; written {
		return v, nil
	}
	if _, known := t.read[key]; known {
		return t.values[key], nil
	}
	options := []clientv3.OpOption{}
	if t.revision > 0 {
		options = append(options, clientv3.WithRev(t.revision))
	}
	r, err := t.s.client.Get(t.ctx, t.s.prefix+key, options...)
	if err != nil {
		return nil, fmt.Errorf("state: etcd: %w", err)
	}
	if t.revision == 0 {
		t.revision = r.Header.Revision
	}
	t.read[key] = 0
	if len(r.Kvs) > 0 {
		t.read[key], t.values[key] = r.Kvs[0].ModRevision, r.Kvs[0].Value
	}
	return t.values[key], nil
}

func (t *etcdTx) Put(key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	t.writes[key] = value
	return nil
}

func (t *etcdTx) Delete(key string) error {
	t.writes[key] = nil
	return nil
}

// commit writes everything if nothing that was read has changed since.
func (t *etcdTx) commit() (done bool, err error) {
	var unchanged []clientv3.Cmp
	for key, revision := range t.read {
		unchanged = append(unchanged, clientv3.Compare(clientv3.ModRevision(t.s.prefix+key), "=", revision))
	}
	ops := []clientv3.Op{clientv3.OpPut(t.s.prefix+revisionKey, "")}
	for key, value := range t.writes {
		if value == nil {
			ops = append(ops, clientv3.OpDelete(t.s.prefix+key))
		} else {
			ops = append(ops, clientv3.OpPut(t.s.prefix+key, string(value)))
		}
	}
	r, err := t.s.client.Txn(t.ctx).If(unchanged...).Then(ops...).Commit()
	if err != nil {
		return false, fmt.Errorf("state: etcd: %w", err)
	}
	return r.Succeeded, nil
}

// errContended reports a transaction that others never left room for.
var errContended = errors.New("state: etcd: too many others change the same at once")

func (s *etcdStore) Update(ctx context.Context, f func(ledger.Tx) error) error {
	for try := range maxTries {
		done, err := s.try(ctx, f)
		if done || err != nil {
			return err
		}
		pause := time.Duration(rand.Int64N(int64(time.Millisecond) * int64(min(1+try, 32))))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errContended
}

func (s *etcdStore) try(ctx context.Context, f func(ledger.Tx) error) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTime)
	defer cancel()
	t := &etcdTx{ctx: ctx, s: s, read: make(map[string]int64), values: make(map[string][]byte), writes: make(map[string][]byte)}
	if err := f(t); err != nil {
		return false, err
	}
	return t.commit()
}

// An etcdReader reads one revision.
type etcdReader struct {
	ctx      context.Context
	s        *etcdStore
	revision int64
}

func (r *etcdReader) options(more ...clientv3.OpOption) []clientv3.OpOption {
	if r.revision > 0 {
		more = append(more, clientv3.WithRev(r.revision))
	}
	return more
}

func (r *etcdReader) Get(key string) ([]byte, error) {
	v, err := r.s.client.Get(r.ctx, r.s.prefix+key, r.options()...)
	if err != nil {
		return nil, fmt.Errorf("state: etcd: %w", err)
	}
	if r.revision == 0 {
		r.revision = v.Header.Revision
	}
	if len(v.Kvs) == 0 {
		return nil, nil
	}
	return v.Kvs[0].Value, nil
}

func (r *etcdReader) Range(prefix string, f func(key string, value []byte) bool) error {
	from := r.s.prefix + prefix
	end := clientv3.GetPrefixRangeEnd(from)
	for {
		v, err := r.s.client.Get(r.ctx, from, r.options(clientv3.WithRange(end), clientv3.WithLimit(etcdPage))...)
		if err != nil {
			return fmt.Errorf("state: etcd: %w", err)
		}
		if r.revision == 0 {
			r.revision = v.Header.Revision
		}
		for _, kv := range v.Kvs {
			if !f(string(kv.Key)[len(r.s.prefix):], kv.Value) {
				return nil
			}
		}
		if !v.More || len(v.Kvs) == 0 {
			return nil
		}
		from = string(v.Kvs[len(v.Kvs)-1].Key) + "\x00"
	}
}

func (s *etcdStore) View(ctx context.Context, f func(ledger.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*etcdTime)
	defer cancel()
	return f(&etcdReader{ctx: ctx, s: s})
}

func (s *etcdStore) Close() error {
	s.once.Do(func() { s.client.Close() })
	return nil
}
