package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	method   = "/startflow.v1.StartFlowService/WatchFlowStarts"
	patience = 120 * time.Second
	atOnce   = 200     // streams at a time; of more that come at once a server with gRPC's defaults refuses some
	window   = 1 << 20 // bytes a stream may have under way; fixed, so that no pings are sent to find a better one
)

// opening says what to open: so many streams on connections of so many each. The requests are dealt out in turn.
// Without Control the server changes by itself, and what comes can only be counted.
type opening struct {
	Target        string
	Control       string
	Pid           int
	Core          int
	Streams       int
	PerConnection int
	Requests      [][]byte
}

// group is the watches on one server.
type group struct {
	opening
	control     net.Conn
	connections []*grpc.ClientConn
	stop        context.CancelFunc

	got    atomic.Int64 // messages that hold a change
	bytes  atomic.Int64
	want   atomic.Int64
	ended  atomic.Int64 // streams that were not told to
	done   chan error
	timed  atomic.Bool
	mutex  sync.Mutex // protects delays
	delays []time.Duration
}

// open opens the streams and returns once each has received its first message.
func open(asked opening) (*group, error) {
	ctx, stop := context.WithCancel(context.Background())
	g := &group{opening: asked, stop: stop, done: make(chan error, 1)}
	if asked.Control != "" {
		control, err := net.Dial("unix", asked.Control)
		if err != nil {
			return nil, err
		}
		g.control = control
	}
	late, slots := time.After(patience), make(chan struct{}, atOnce)
	for n := range asked.Streams + atOnce { // once every slot can be taken again, every stream has begun
		select {
		case slots <- struct{}{}:
		case err := <-g.done:
			return nil, err
		case <-late:
			return nil, fmt.Errorf("%d of %d streams were opened in %v", n, asked.Streams, patience)
		}
		if n >= asked.Streams {
			continue
		}
		if n%asked.PerConnection == 0 {
			connection, err := connect(asked.Target)
			if err != nil {
				return nil, err
			}
			g.connections = append(g.connections, connection)
		}
		connection := g.connections[len(g.connections)-1]
		go g.follow(ctx, connection, asked.Requests[n%len(asked.Requests)], slots)
	}
	return g, nil
}

func connect(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(16*window))
}

// follow counts what one stream brings until the group is closed. The first message frees the stream's slot.
func (g *group) follow(ctx context.Context, connection *grpc.ClientConn, request []byte, slots <-chan struct{}) {
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := connection.NewStream(ctx, description, method, grpc.ForceCodecV2(raw{}), grpc.WaitForReady(true))
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	message := received{timed: &g.timed}
	for begun := false; err == nil; {
		if err = stream.RecvMsg(&message); err != nil {
			break
		}
		if !begun {
			begun = true
			<-slots
		}
		if message.changed {
			g.count(&message)
		}
	}
	if ctx.Err() == nil {
		g.ended.Add(1)
		g.finish(fmt.Errorf("a stream ended: %w", err))
	}
}

func (g *group) count(message *received) {
	g.bytes.Add(int64(message.size))
	if !message.at.IsZero() {
		g.mutex.Lock()
		g.delays = append(g.delays, time.Since(message.at))
		g.mutex.Unlock()
	}
	if g.got.Add(1) == g.want.Load() {
		g.finish(nil)
	}
}

func (g *group) finish(err error) {
	select {
	case g.done <- err:
	default: // somebody else has said so already
	}
}

// running says what to run: in each round the server is told to make a change, which so many messages follow. The next
// round begins when they have all come, and so many microseconds have passed.
type running struct {
	Rounds []struct {
		Send   string
		Expect int64
	}
	Pause int
	Timed bool
}

// run makes the rounds and measures them.
func (g *group) run(asked running) (*measured, error) {
	if extra := g.got.Load() - g.want.Load(); extra != 0 {
		return nil, fmt.Errorf("%d messages came that were not expected", extra)
	}
	g.timed.Store(asked.Timed)
	g.delays = nil
	messages, bytes := g.got.Load(), g.bytes.Load()
	before, err := look(g.Pid, g.Core)
	if err != nil {
		return nil, err
	}
	for _, round := range asked.Rounds {
		if err := g.runOne(round.Send, round.Expect); err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(asked.Pause) * time.Microsecond)
	}
	after, err := look(g.Pid, g.Core)
	if err != nil {
		return nil, err
	}
	result := before.until(after)
	result.Messages = g.got.Load() - messages
	result.Bytes = g.bytes.Load() - bytes
	result.Changes = len(asked.Rounds)
	result.tell(g.delays)
	return result, nil
}

func (g *group) runOne(send string, expect int64) error {
	g.want.Add(expect)
	if _, err := fmt.Fprintln(g.control, send); err != nil {
		return err
	}
	if expect == 0 {
		return errors.New("a round without messages has no end")
	}
	select {
	case err := <-g.done:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%d of %d messages did not come in %v", g.want.Load()-g.got.Load(), expect, patience)
	}
}

// counted is what has come so far, how many streams have ended, and what the first of them said.
type counted struct {
	Messages int64  `json:"messages"`
	Ended    int64  `json:"ended"`
	Why      string `json:"why"`
}

func (g *group) tally() *counted {
	told := &counted{Messages: g.got.Load(), Ended: g.ended.Load()}
	select {
	case err := <-g.done:
		told.Why = err.Error()
	default:
	}
	return told
}

func (g *group) close() {
	g.stop()
	for _, connection := range g.connections {
		connection.Close()
	}
	if g.control != nil {
		g.control.Close()
	}
}
