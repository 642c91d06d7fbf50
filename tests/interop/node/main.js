// A caller in Node, built from protos/ alone. See tests/interop/__init__.py for what it must do.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, flow, requestId] = process.argv.slice(2);
const load = (file) =>
  grpc.loadPackageDefinition(
    loader.loadSync(file, { includeDirs: process.env.PROTOS.split(":"), longs: String, oneofs: true }),
  );
const { StartFlowService } = load("startflow/v1/start_flow_service.proto").startflow.v1;
// grpc-js has no decoder for the details of an error; proto-loader is built on this one.
const protobuf = require("protobufjs");
const types = new protobuf.Root();
types.resolvePath = (_, file) => {
  const fs = require("node:fs");
  return process.env.PROTOS.split(":").map((folder) => `${folder}/${file}`).find(fs.existsSync) ?? file;
};
types.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

const client = new StartFlowService(address, grpc.credentials.createInsecure());
const call = (method, request) =>
  new Promise((resolve, reject) => {
    client[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

// Starts a flow twice with one request_id, and reads it.
async function start() {
  const request = { flow, urns: ["tel:+12065551212"], requestId };
  const first = await call("StartFlow", request);
  const again = await call("StartFlow", request);
  const read = await call("GetFlowStart", { id: first.flowStart.id });
  const same = first.flowStart.id === again.flowStart.id && first.flowStart.id === read.flowStart.id;
  console.log("started", Boolean(first.replayed), Boolean(again.replayed), same, first.flowStart.revision);
  return first.flowStart;
}

// Makes a call with a bad field, and decodes the details of the error.
async function fail() {
  const error = await call("StartFlow", { flow, urns: ["tel:+12065551212", "x"] }).catch((reason) => reason);
  const status = types.lookupType("google.rpc.Status").decode(error.metadata.get("grpc-status-details-bin")[0]);
  const details = {};
  for (const { type_url: url, typeUrl, value } of status.details) {
    const name = (url ?? typeUrl).split("/")[1];
    details[name] = types.lookupType(name).decode(value);
  }
  const field = details["google.rpc.BadRequest"].fieldViolations[0].field;
  console.log("refused", details["google.rpc.ErrorInfo"].reason, field);
}

// Prints the revision of every change, and resumes where the last stream ended.
function watch(afterRevision, epoch) {
  const waiting = new grpc.Metadata({ waitForReady: true });
  const stream = client.WatchFlowStarts({ afterRevision, epoch }, waiting);
  stream.on("data", (message) => {
    ({ revision: afterRevision, epoch } = message);
    if (message.changed) console.log("changed", afterRevision);
  });
  stream.on("error", (error) => {
    console.log("ended", grpc.status[error.code]);
    if (error.code !== grpc.status.UNAVAILABLE) throw error;
    setTimeout(watch, 50, afterRevision, epoch);
  });
}

(async () => {
  const first = await start();
  await fail();
  watch(first.revision, "");
})();
