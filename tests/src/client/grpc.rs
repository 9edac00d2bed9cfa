//! gRPC transport: the `Connect` stream, through the generated client.

use futures::FutureExt as _;
use hyper_util::rt::TokioIo;
use tidewire_proto::{
    json,
    v1::{ClientMessage, ServerMessage, stream_service_client::StreamServiceClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{Incoming, Outgoing, Refusal, Sent, Wire};
use crate::{Close, Endpoint, Message, tls};

/// Opens a channel to the server.
///
/// # Panics
/// The server cannot be reached.
pub async fn channel(server: &Endpoint) -> Channel {
    try_channel(server).await.expect("the server is there")
}

async fn try_channel(server: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let url = format!("http://{}", server.address());
    let endpoint = Channel::from_shared(url).expect("a URL");
    let Some(authority) = server.authority() else {
        return endpoint.connect().await;
    };
    let (address, config) = (server.address(), authority.client_config("h2", None));
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { tls::connect(address, config).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await
}

/// Builds a request with a token.
///
/// # Panics
/// The token is not a valid header value.
#[must_use]
pub fn request<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

pub(super) async fn open(
    server: &Endpoint,
    token: Option<&str>,
) -> Result<(Wire, Message), Refusal> {
    let channel = try_channel(server).await.map_err(Refusal::unreachable)?;
    let mut client = StreamServiceClient::new(channel);
    let (messages, asked) = mpsc::channel(16);
    let refusal = |status: Status| Refusal::Grpc(status.code(), status.message().to_owned());
    let connected = client
        .connect(request(ReceiverStream::new(asked), token))
        .await;
    let mut stream = connected.map_err(refusal)?.into_inner();
    let welcome = stream
        .message()
        .await
        .map_err(refusal)?
        .ok_or_else(|| Refusal::unreachable("the end, no `welcome`"))?;
    let (sender, incoming) = mpsc::unbounded_channel();
    let reader = tokio::spawn(listen(stream, sender)).abort_handle();
    let wire = Wire {
        incoming,
        outgoing: Box::new(Side(messages)),
        reader,
    };
    Ok((wire, Message::from_proto(&welcome)))
}

struct Side(mpsc::Sender<ClientMessage>);

impl Outgoing for Side {
    fn send(&mut self, text: String) -> Sent<'_> {
        let message = json::parse_client(text.as_bytes())
            .unwrap_or_else(|error| panic!("{text} has no protobuf form: {error}"));
        async move {
            let sent = self.0.send(message).await;
            sent.map(|()| None).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

async fn listen(mut stream: Streaming<ServerMessage>, sender: mpsc::UnboundedSender<Incoming>) {
    loop {
        let incoming = match stream.message().await {
            Ok(Some(message)) => Incoming::Message(Message::from_proto(&message)),
            Ok(None) => Incoming::Close(Close::Broken(
                "the stream ended without a status".to_owned(),
            )),
            Err(status) => Incoming::Close(Close::Grpc {
                code: status.code(),
                message: status.message().to_owned(),
            }),
        };
        let is_over = matches!(incoming, Incoming::Close(_));
        if sender.send(incoming).is_err() || is_over {
            return;
        }
    }
}
