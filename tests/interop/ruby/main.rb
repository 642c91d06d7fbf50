# A caller in Ruby, generated from protos/ alone. See tests/interop/__init__.py for what it must do.
require "grpc"
require "google/protobuf/well_known_types" # Any.is, Any.unpack
require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require_relative "startflow/v1/start_flow_service_services_pb"

include StartFlow::V1

ADDRESS, FLOW, REQUEST_ID = ARGV
URN = "tel:+12065551212"
$stdout.sync = true

# Starts a flow twice with one request_id, and reads it.
def start(client)
  request = StartFlowRequest.new(flow: FLOW, urns: [URN], request_id: REQUEST_ID)
  first = client.start_flow(request)
  again = client.start_flow(request)
  id = first.flow_start.id
  read = client.get_flow_start(GetFlowStartRequest.new(id: id))
  same = [again, read].all? { |answer| answer.flow_start.id == id }
  puts "started #{first.replayed} #{again.replayed} #{same} #{first.flow_start.revision}"
  first.flow_start
end

# Makes a call with a bad field, and decodes the details of the error.
def refuse(client)
  client.start_flow(StartFlowRequest.new(flow: FLOW, urns: [URN, "x"]))
rescue GRPC::InvalidArgument => error
  details = error.to_rpc_status.details
  find = ->(type) { details.find { |detail| detail.is(type) }.unpack(type) }
  info = find.call(Google::Rpc::ErrorInfo)
  bad = find.call(Google::Rpc::BadRequest)
  puts "refused #{info.reason} #{bad.field_violations[0].field}"
end

# Prints the revision of every change, and resumes where the last stream ended.
def watch(client, revision)
  epoch = ""
  loop do
    request = WatchFlowStartsRequest.new(after_revision: revision, epoch: epoch)
    client.watch_flow_starts(request).each do |message|
      revision = message.revision
      epoch = message.epoch
      puts "changed #{revision}" if message.event == :changed
    end
    raise "a stream without end has ended"
  rescue GRPC::Unavailable
    puts "ended UNAVAILABLE"
    sleep 0.05
  end
end

client = StartFlowService::Stub.new(ADDRESS, :this_channel_is_insecure)
first = start(client)
refuse(client)
watch(client, first.revision)
