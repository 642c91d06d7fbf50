package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// loading says how to call a server: what all callers do for so many seconds, and before that, unmeasured, to warm up.
type loading struct {
	Target  string
	Pid     int
	Core    int
	WarmUp  float64
	Seconds float64
	Callers []caller
}

// caller says what one tenant calls: a method, so many calls at a time on so many connections, and so many a second (0:
// as many as are answered). The requests are dealt out in turn; in the field Unique, if that is set, each gets a text
// that no other call has.
type caller struct {
	Method      string
	Token       string
	Requests    [][]byte
	Unique      protowire.Number
	InFlight    int
	Connections int
	PerSecond   float64
}

// loaded is what all calls of a run took, and what each caller met.
type loaded struct {
	measured
	Callers []*met `json:"callers"`
}

// met is what one caller met. Delays are in microseconds, of whatever the calls came to.
type met struct {
	Codes    map[string]int64 `json:"codes"`
	Bytes    int64            `json:"bytes"`
	DelayP50 float64          `json:"delay_p50"`
	DelayP99 float64          `json:"delay_p99"`
}

// calling is a caller at work.
type calling struct {
	caller
	began    time.Time
	prefix   string
	next     atomic.Int64 // how many calls have begun
	counting atomic.Bool
	stopping atomic.Bool
	untimed  atomic.Bool // never set: no message is asked when it was recorded
	mutex    sync.Mutex  // protects the rest
	met      met
	delays   []time.Duration
}

// load has all callers call, and measures while they do. What is under way at either end counts where it is answered.
func load(asked loading) (*loaded, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var working sync.WaitGroup
	var all []*calling
	for _, each := range asked.Callers {
		c := &calling{caller: each, began: time.Now(), prefix: fmt.Sprintf("%016x", rand.Uint64())}
		c.met.Codes = map[string]int64{}
		all = append(all, c)
		for n := range each.Connections {
			connection, err := connect(asked.Target)
			if err != nil {
				return nil, err
			}
			defer connection.Close()
			for range share(each.InFlight, each.Connections, n) {
				working.Go(func() { c.call(ctx, connection) })
			}
		}
	}
	result, err := measure(asked, all)
	for _, c := range all {
		c.stopping.Store(true)
	}
	working.Wait()
	return result, err
}

// measure counts what is answered in the seconds after the warm-up.
func measure(asked loading, all []*calling) (*loaded, error) {
	time.Sleep(time.Duration(asked.WarmUp * float64(time.Second)))
	before, err := look(asked.Pid, asked.Core)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		c.counting.Store(true)
	}
	time.Sleep(time.Duration(asked.Seconds * float64(time.Second)))
	for _, c := range all {
		c.counting.Store(false)
	}
	after, err := look(asked.Pid, asked.Core)
	if err != nil {
		return nil, err
	}
	result := &loaded{measured: *before.until(after)}
	for _, c := range all {
		result.Callers = append(result.Callers, c.tell())
	}
	return result, nil
}

// share is how many of so many calls one of so many connections carries.
func share(calls, connections, number int) int {
	return (calls + connections - 1 - number) / connections
}

// call calls again and again until it is told to stop; a call that is under way is answered first.
func (c *calling) call(ctx context.Context, connection *grpc.ClientConn) {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.Token)
	how := []grpc.CallOption{grpc.ForceCodecV2(raw{}), grpc.WaitForReady(true)}
	answer := received{timed: &c.untimed}
	for !c.stopping.Load() && ctx.Err() == nil {
		number := c.next.Add(1) - 1
		began := c.wait(number)
		answer.size = 0
		err := connection.Invoke(ctx, c.Method, c.request(number), &answer, how...)
		if c.counting.Load() {
			c.count(status.Code(err).String(), answer.size, time.Since(began))
		}
	}
}

// wait waits until a call is due, and returns when it begins: when it was due, if those before it have held it up.
func (c *calling) wait(number int64) time.Time {
	now := time.Now()
	if c.PerSecond == 0 {
		return now
	}
	due := c.began.Add(time.Duration(float64(number) / c.PerSecond * float64(time.Second)))
	if due.Before(now) {
		return due
	}
	time.Sleep(due.Sub(now))
	return time.Now()
}

// request makes the next request: what is the same every time, and the field that is not. Fields may come in any order.
func (c *calling) request(number int64) []byte {
	fixed := c.Requests[number%int64(len(c.Requests))]
	if c.Unique == 0 {
		return fixed
	}
	text := fmt.Sprintf("%s%020d", c.prefix, number)
	message := make([]byte, 0, len(fixed)+len(text)+8)
	message = protowire.AppendTag(append(message, fixed...), c.Unique, protowire.BytesType)
	return protowire.AppendString(message, text)
}

func (c *calling) count(code string, size int, delay time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.met.Codes[code]++
	c.met.Bytes += int64(size)
	c.delays = append(c.delays, delay)
}

func (c *calling) tell() *met {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var told measured
	told.tell(c.delays)
	c.met.DelayP50, c.met.DelayP99 = told.DelayP50, told.DelayP99
	return &c.met
}
