import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import startflow.v1.FlowStart;
import startflow.v1.GetFlowStartRequest;
import startflow.v1.StartFlowRequest;
import startflow.v1.StartFlowServiceGrpc;
import startflow.v1.StartFlowServiceGrpc.StartFlowServiceBlockingStub;
import startflow.v1.WatchFlowStartsRequest;

/** A caller in Java, generated from protos/ alone. See tests/interop/__init__.py for what it must do. */
public final class Main {
  public static void main(String[] args) throws Exception {
    var channel = Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
    var client = StartFlowServiceGrpc.newBlockingStub(channel);
    var first = call(client, args[1], args[2]);
    fail(client, args[1]);
    watch(client, first.getRevision());
  }

  /** Starts a flow twice with one request id, and reads it. */
  private static FlowStart call(StartFlowServiceBlockingStub client, String flow, String requestId) {
    var request = StartFlowRequest.newBuilder().setFlow(flow).addUrns("tel:+12065551212").setRequestId(requestId).build();
    var first = client.startFlow(request);
    var again = client.startFlow(request);
    var id = first.getFlowStart().getId();
    var read = client.getFlowStart(GetFlowStartRequest.newBuilder().setId(id).build());
    var same = id.equals(again.getFlowStart().getId()) && id.equals(read.getFlowStart().getId());
    System.out.printf("started %b %b %b %d%n", first.getReplayed(), again.getReplayed(), same,
        first.getFlowStart().getRevision());
    return first.getFlowStart();
  }

  /** Makes a call with a bad field, and decodes the details of the error. */
  private static void fail(StartFlowServiceBlockingStub client, String flow) throws Exception {
    var reason = "";
    var field = "";
    try {
      client.startFlow(StartFlowRequest.newBuilder().setFlow(flow).addUrns("tel:+12065551212").addUrns("x").build());
    } catch (StatusRuntimeException error) {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) reason = detail.unpack(ErrorInfo.class).getReason();
        if (detail.is(BadRequest.class)) field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
      }
    }
    System.out.println("refused " + reason + " " + field);
  }

  /** Prints the revision of every change, and resumes where the last stream ended. */
  private static void watch(StartFlowServiceBlockingStub client, long revision) throws Exception {
    var epoch = "";
    while (true) {
      var request = WatchFlowStartsRequest.newBuilder().setAfterRevision(revision).setEpoch(epoch).build();
      try {
        for (var messages = client.withWaitForReady().watchFlowStarts(request); messages.hasNext(); ) {
          var message = messages.next();
          revision = message.getRevision();
          epoch = message.getEpoch();
          if (message.hasChanged()) System.out.println("changed " + revision);
        }
        throw new IllegalStateException("a stream without end has ended");
      } catch (StatusRuntimeException error) {
        System.out.println("ended " + error.getStatus().getCode());
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) throw error;
      }
      Thread.sleep(50);
    }
  }
}
