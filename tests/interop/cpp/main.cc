// A caller in C++, generated from protos/ alone. See tests/interop/__init__.py for what it must do.
#include <chrono>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "startflow/v1/start_flow_service.grpc.pb.h"

using namespace startflow::v1;

static const std::string kUrn = "tel:+12065551212";

static void check(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::to_string(status.error_code()) + ": " + status.error_message());
}

// Starts a flow twice with one request_id, and reads it.
static FlowStart call(StartFlowService::Stub& client, const std::string& flow, const std::string& request_id) {
  StartFlowRequest request;
  request.set_flow(flow);
  request.add_urns(kUrn);
  request.set_request_id(request_id);
  StartFlowResponse first, again;
  grpc::ClientContext one, two, three;
  check(client.StartFlow(&one, request, &first));
  check(client.StartFlow(&two, request, &again));
  GetFlowStartRequest wanted;
  wanted.set_id(first.flow_start().id());
  GetFlowStartResponse read;
  check(client.GetFlowStart(&three, wanted, &read));
  const auto& id = first.flow_start().id();
  bool same = id == again.flow_start().id() && id == read.flow_start().id();
  std::cout << std::boolalpha << "started " << first.replayed() << " " << again.replayed() << " " << same << " "
            << first.flow_start().revision() << std::endl;
  return first.flow_start();
}

// Makes a call with a bad field, and decodes the details of the error.
static void fail(StartFlowService::Stub& client, const std::string& flow) {
  StartFlowRequest request;
  request.set_flow(flow);
  request.add_urns(kUrn);
  request.add_urns("x");
  StartFlowResponse response;
  grpc::ClientContext context;
  google::rpc::Status status;
  status.ParseFromString(client.StartFlow(&context, request, &response).error_details());
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  for (const auto& detail : status.details()) {
    detail.UnpackTo(&info);
    detail.UnpackTo(&bad);
  }
  std::cout << "refused " << info.reason() << " " << bad.field_violations(0).field() << std::endl;
}

// Prints the revision of every change, and resumes where the last stream ended.
static void watch(StartFlowService::Stub& client, int64_t revision) {
  std::string epoch;
  while (true) {
    WatchFlowStartsRequest request;
    request.set_after_revision(revision);
    request.set_epoch(epoch);
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    auto stream = client.WatchFlowStarts(&context, request);
    WatchFlowStartsResponse message;
    while (stream->Read(&message)) {
      revision = message.revision();
      epoch = message.epoch();
      if (message.has_changed()) std::cout << "changed " << revision << std::endl;
    }
    auto status = stream->Finish();
    bool unavailable = status.error_code() == grpc::StatusCode::UNAVAILABLE;
    std::cout << "ended " << (unavailable ? "UNAVAILABLE" : std::to_string(status.error_code())) << std::endl;
    if (!unavailable) check(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// Asks as fast as it is answered; what ends with anything but UNAVAILABLE ends the caller.
static void ask(StartFlowService::Stub& client) {
  while (true) {
    grpc::ClientContext context;
    ListBackendsResponse response;
    auto status = client.ListBackends(&context, ListBackendsRequest(), &response);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) check(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

int main(int, char** arguments) {
  auto channel = grpc::CreateChannel(arguments[1], grpc::InsecureChannelCredentials());
  auto client = StartFlowService::NewStub(channel);
  auto first = call(*client, arguments[2], arguments[3]);
  fail(*client, arguments[2]);
  std::thread asking([&client] { ask(*client); });
  watch(*client, first.revision());
}
