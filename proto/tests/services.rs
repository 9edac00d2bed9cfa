//! Services in one process without a socket: streams pass encoded bytes through, and unary
//! RPCs accept JSON.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use tidewire_proto::{
    EncodedMessage, rpc,
    v1::{
        self, ServerMessage,
        client_message::Data as Asked,
        server_message::Data,
        stream_service_client::StreamServiceClient,
        stream_service_server::{StreamService, StreamServiceServer},
    },
};
use tokio_stream::{StreamExt as _, iter};
use tonic::{Code, Request, Response, Status, Streaming};

/// Sends one fixed message to every caller.
struct Fixed(EncodedMessage);

/// Request extensions, which the JSON call must pass on.
#[derive(Clone)]
struct Caller(&'static str);

type Messages = tokio_stream::Iter<std::vec::IntoIter<Result<EncodedMessage, Status>>>;

#[tonic::async_trait]
impl StreamService for Fixed {
    type SubscribeStream = Messages;
    type ConnectStream = Messages;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Messages>, Status> {
        let items = request
            .into_inner()
            .channels
            .iter()
            .map(|_| Ok(self.0.clone()))
            .collect::<Vec<_>>();
        Ok(Response::new(iter(items)))
    }

    async fn connect(
        &self,
        request: Request<Streaming<v1::ClientMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let mut asked = request.into_inner();
        let mut items = Vec::new();
        while let Some(message) = asked.message().await? {
            assert!(matches!(message.data, Some(Asked::Ping(_))));
            items.push(Ok(self.0.clone()));
        }
        Ok(Response::new(iter(items)))
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .map_or("", |caller| caller.0);
        let epoch = request
            .metadata()
            .get("x-epoch")
            .and_then(|epoch| epoch.to_str().ok())
            .unwrap_or("");
        let epoch = format!("{epoch} {caller}");
        let request = request.into_inner();
        let seq = request.data.len() as u64;
        let mut response = Response::new(v1::PublishResponse {
            channel: request.channel,
            epoch,
            seq,
        });
        response.metadata_mut().insert("x-answer", 42.into());
        Ok(response)
    }

    async fn publish_batch(
        &self,
        _: Request<v1::PublishBatchRequest>,
    ) -> Result<Response<v1::PublishBatchResponse>, Status> {
        Err(Status::resource_exhausted("no more"))
    }

    async fn send_to_user(
        &self,
        _: Request<v1::SendToUserRequest>,
    ) -> Result<Response<v1::SendToUserResponse>, Status> {
        Ok(Response::new(v1::SendToUserResponse::default()))
    }

    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        Ok(Response::new(v1::GetHistoryResponse::default()))
    }

    async fn get_presence(
        &self,
        _: Request<v1::GetPresenceRequest>,
    ) -> Result<Response<v1::GetPresenceResponse>, Status> {
        Ok(Response::new(v1::GetPresenceResponse::default()))
    }
}

fn sample() -> ServerMessage {
    ServerMessage {
        channel: Some("demo:a".into()),
        seq: Some(7),
        data: Some(Data::Message(Bytes::from(format!(
            "\"{}\"",
            "é".repeat(20_000)
        )))),
        ..Default::default()
    }
}

fn service() -> Fixed {
    Fixed(EncodedMessage::from(&sample()))
}

async fn call(method: &str, body: &'static [u8]) -> Result<String, Status> {
    let response =
        rpc::stream_service(&service(), method, Request::new(Bytes::from_static(body))).await;
    response.map(|response| String::from_utf8(response.into_inner()).unwrap())
}

#[tokio::test]
async fn subscribers_get_the_shared_bytes_as_messages() {
    let server = StreamServiceServer::from_arc(Arc::new(service()));
    let channels = vec![v1::ChannelSubscription::default(); 5];
    let stream = StreamServiceClient::new(server)
        .subscribe(v1::SubscribeRequest { channels })
        .await
        .unwrap();
    let got: Vec<_> = stream.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(got, vec![sample(); 5]);
}

#[tokio::test]
async fn a_session_streams_both_ways() {
    let ping = v1::ClientMessage {
        data: Some(Asked::Ping(v1::PingRequest::default())),
        ..Default::default()
    };
    let mut client = StreamServiceClient::new(StreamServiceServer::new(service()));
    let stream = client.connect(iter(vec![ping; 3])).await.unwrap();
    let got: Vec<_> = stream.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(got, vec![sample(); 3]);
}

#[tokio::test]
async fn unary_calls_work_over_grpc() {
    let mut client = StreamServiceClient::new(StreamServiceServer::new(service()));
    let asked = v1::PublishRequest {
        channel: "demo:a".into(),
        data: Bytes::from_static(b"{}"),
        idempotency_key: None,
    };
    assert_eq!(client.publish(asked).await.unwrap().into_inner().seq, 2);
}

#[tokio::test]
async fn json_calls_carry_metadata_and_extensions() {
    let mut request = Request::new(Bytes::from_static(
        br#"{"channel":"demo:a","data":{"n": 1}}"#,
    ));
    request
        .metadata_mut()
        .insert("x-epoch", "e1".parse().unwrap());
    request.extensions_mut().insert(Caller("u1"));
    let response = rpc::stream_service(&service(), "Publish", request)
        .await
        .unwrap();
    assert_eq!(response.metadata().get("x-answer").unwrap(), "42");
    assert_eq!(
        response.into_inner(),
        br#"{"channel":"demo:a","epoch":"e1 u1","seq":8}"#
    );
}

#[tokio::test]
async fn an_empty_body_means_all_defaults() {
    assert_eq!(
        call("GetPresence", b"").await.unwrap(),
        r#"{"channel":"","connections":0,"users":[]}"#
    );
}

#[tokio::test]
async fn refusals_say_what_was_expected() {
    let error = call("GetHistory", br#"{"since":{"seq":-1}}"#)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error
            .message()
            .starts_with("`since.seq`: expected a whole number"),
        "{error}"
    );
    assert_eq!(
        call("GetHistory", b"{").await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let error = call("Subscribe", b"").await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (
            Code::Unimplemented,
            "Subscribe is a stream: use gRPC, /v1/ws or /v1/sse"
        )
    );
    assert_eq!(
        call("Connect", b"").await.unwrap_err().code(),
        Code::Unimplemented
    );

    let error = call("Shout", b"").await.unwrap_err();
    let expected = "there is no method \"Shout\" in StreamService, \
                    expected one of Publish, PublishBatch, SendToUser, GetHistory, GetPresence";
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unimplemented, expected)
    );

    assert_eq!(
        call("PublishBatch", b"{}").await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}
