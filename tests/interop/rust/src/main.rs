//! A caller in Rust, generated from protos/ alone. See tests/interop/__init__.py for what it must do.
use std::error::Error;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

#[allow(clippy::all, rustdoc::all)]
mod pb {
    tonic::include_proto!("startflow.v1");
}
use pb::start_flow_service_client::StartFlowServiceClient;
use pb::watch_flow_starts_response::Event;
use pb::{FlowStart, GetFlowStartRequest, StartFlowRequest, WatchFlowStartsRequest};

type Client = StartFlowServiceClient<Channel>;

/// Starts a flow twice with one request id, and reads it.
async fn call(client: &mut Client, flow: &str, request_id: &str) -> Result<FlowStart, Status> {
    let request = StartFlowRequest {
        flow: flow.into(),
        urns: vec!["tel:+12065551212".into()],
        request_id: request_id.into(),
        ..Default::default()
    };
    let first = client.start_flow(request.clone()).await?.into_inner();
    let again = client.start_flow(request).await?.into_inner();
    let start = first.flow_start.expect("a start");
    let read = client.get_flow_start(GetFlowStartRequest { id: start.id.clone() }).await?.into_inner();
    let same = [again.flow_start, read.flow_start].iter().flatten().filter(|other| other.id == start.id).count() == 2;
    println!("started {} {} {same} {}", first.replayed, again.replayed, start.revision);
    Ok(start)
}

/// Makes a call with a bad field, and decodes the details of the error.
async fn fail(client: &mut Client, flow: &str) {
    let urns = vec!["tel:+12065551212".into(), "x".into()];
    let request = StartFlowRequest { flow: flow.into(), urns, ..Default::default() };
    let details = client.start_flow(request).await.expect_err("a bad field").get_error_details();
    let reason = &details.error_info().expect("an ErrorInfo").reason;
    let field = &details.bad_request().expect("a BadRequest").field_violations[0].field;
    println!("refused {reason} {field}");
}

/// Prints the revision of every change until the stream ends.
async fn follow(client: &mut Client, revision: &mut i64, epoch: &mut String) -> Result<(), Status> {
    let request = WatchFlowStartsRequest {
        after_revision: Some(*revision),
        epoch: epoch.clone(),
        ..Default::default()
    };
    let mut messages = client.watch_flow_starts(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        (*revision, *epoch) = (message.revision, message.epoch);
        if let Some(Event::Changed(_)) = message.event {
            println!("changed {revision}");
        }
    }
    Ok(())
}

/// Resumes where the last stream ended.
async fn watch(client: &mut Client, mut revision: i64) -> Result<(), Status> {
    let mut epoch = String::new();
    loop {
        let ended = follow(client, &mut revision, &mut epoch).await.expect_err("a stream without end");
        match ended.code() {
            Code::Unavailable => println!("ended UNAVAILABLE"),
            // So tonic names a connection that broke in the middle of a stream; what a server answers has no source.
            Code::Unknown if ended.source().is_some() => println!("ended BROKEN"),
            _ => return Err(ended),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let channel = Endpoint::from_shared(format!("http://{}", arguments[1]))?.connect_lazy();
    let mut client = Client::new(channel);
    let first = call(&mut client, &arguments[2], &arguments[3]).await?;
    fail(&mut client, &arguments[2]).await;
    Ok(watch(&mut client, first.revision).await?)
}
