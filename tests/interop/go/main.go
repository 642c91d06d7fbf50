// A caller in Go, generated from protos/ alone. See tests/interop/__init__.py for what it must do.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "startflow.example/api/startflow/v1"
)

func main() {
	address, flow, requestID := os.Args[1], os.Args[2], os.Args[3]
	channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	client := pb.NewStartFlowServiceClient(channel)
	first := call(client, flow, requestID)
	fail(client, flow)
	watch(client, first.Revision)
}

// call starts a flow twice with one request_id, and reads it.
func call(client pb.StartFlowServiceClient, flow, requestID string) *pb.FlowStart {
	request := &pb.StartFlowRequest{Flow: flow, Urns: []string{"tel:+12065551212"}, RequestId: requestID}
	first, err := client.StartFlow(context.Background(), request)
	check(err)
	again, err := client.StartFlow(context.Background(), request)
	check(err)
	read, err := client.GetFlowStart(context.Background(), &pb.GetFlowStartRequest{Id: first.FlowStart.Id})
	check(err)
	fmt.Println("started", first.Replayed, again.Replayed, first.FlowStart.Id == again.FlowStart.Id &&
		first.FlowStart.Id == read.FlowStart.Id, first.FlowStart.Revision)
	return first.FlowStart
}

// fail makes a call with a bad field, and decodes the details of the error.
func fail(client pb.StartFlowServiceClient, flow string) {
	request := &pb.StartFlowRequest{Flow: flow, Urns: []string{"tel:+12065551212", "x"}}
	_, err := client.StartFlow(context.Background(), request)
	reason, field := "", ""
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.BadRequest:
			field = detail.FieldViolations[0].Field
		}
	}
	fmt.Println("refused", reason, field)
}

// watch prints the revision of every change, and resumes where the last stream ended.
func watch(client pb.StartFlowServiceClient, revision int64) {
	epoch := ""
	for {
		request := &pb.WatchFlowStartsRequest{AfterRevision: &revision, Epoch: epoch}
		stream, err := client.WatchFlowStarts(context.Background(), request, grpc.WaitForReady(true))
		for err == nil {
			var message *pb.WatchFlowStartsResponse
			if message, err = stream.Recv(); err == nil {
				revision, epoch = message.Revision, message.Epoch
				if message.GetChanged() != nil {
					fmt.Println("changed", revision)
				}
			}
		}
		fmt.Println("ended", status.Code(err))
		if status.Code(err) != codes.Unavailable {
			check(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
