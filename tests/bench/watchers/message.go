package main

import (
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of fields in start_flow_service.proto, and in google/protobuf/timestamp.proto.
const (
	responseChanged  = 3
	startUpdateTime  = 15
	timestampSeconds = 1
	timestampNanos   = 2
)

var errMalformed = errors.New("malformed message")

// received is what is kept of a message: whether it holds a change, and when that was recorded, if that is asked for.
type received struct {
	timed   *atomic.Bool
	changed bool
	size    int
	at      time.Time
}

// raw is a codec that sends bytes as they are and looks at what comes without unmarshalling it.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, into any) error {
	message := into.(*received)
	message.size = data.Len()
	message.at = time.Time{}
	content := data[0].ReadOnlyData()
	if len(data) > 1 {
		content = data.Materialize()
	}
	changed, err := field(content, responseChanged)
	message.changed = changed != nil
	if err != nil || changed == nil || !message.timed.Load() {
		return err
	}
	moment, err := field(changed, startUpdateTime)
	if err != nil {
		return err
	}
	message.at, err = timestamp(moment)
	return err
}

// field returns the content of a length-delimited field; nil if it is not there.
func field(content []byte, wanted protowire.Number) ([]byte, error) {
	for len(content) > 0 {
		number, kind, n := protowire.ConsumeTag(content)
		if n < 0 {
			return nil, errMalformed
		}
		content = content[n:]
		if number == wanted && kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(content)
			if n < 0 {
				return nil, errMalformed
			}
			return value, nil
		}
		if n = protowire.ConsumeFieldValue(number, kind, content); n < 0 {
			return nil, errMalformed
		}
		content = content[n:]
	}
	return nil, nil
}

func timestamp(content []byte) (time.Time, error) {
	var seconds, nanos uint64
	for len(content) > 0 {
		number, kind, n := protowire.ConsumeTag(content)
		if n < 0 || kind != protowire.VarintType {
			return time.Time{}, errMalformed
		}
		value, m := protowire.ConsumeVarint(content[n:])
		if m < 0 {
			return time.Time{}, errMalformed
		}
		switch number {
		case timestampSeconds:
			seconds = value
		case timestampNanos:
			nanos = value
		}
		content = content[n+m:]
	}
	return time.Unix(int64(seconds), int64(nanos)), nil
}
