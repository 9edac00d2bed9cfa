//! Sends notifications over gRPC as a back end, and receives them as their user.
//!
//! ```text
//! cargo run --release                                          # a server, in another terminal
//! export TOKEN="$(cargo run --release -- token --user ada)"    # a token of the user
//! cargo run --example grpc_notifications
//! cargo run --example grpc_notifications -- http://127.0.0.1:8080 ada
//! ```
//!
//! A back end on the server's machine needs no token to send. From elsewhere, set `SERVICE_TOKEN`
//! to a token with the scope `service`.

use std::env;

use anyhow::Context as _;
use tidewire_proto::v1::{
    GetUnreadCountRequest, MarkReadRequest, Notification, NotificationType, NotifyBatchRequest,
    NotifyRequest, Priority, StreamNotificationsRequest, notify_result::Result as Outcome,
    notify_service_client::NotifyServiceClient,
};
use tonic::{Request, transport::Endpoint};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments.next();
    let user = arguments.next().unwrap_or("ada".to_owned());
    let token = env::var("TOKEN").context("set TOKEN to a token of the user")?;
    let service_token = env::var("SERVICE_TOKEN").ok();
    let endpoint = Endpoint::from_shared(url.unwrap_or("http://127.0.0.1:8080".to_owned()))?;
    let channel = endpoint.connect().await.context("is a server there?")?;
    let mut client = NotifyServiceClient::new(channel);

    let request = StreamNotificationsRequest { user: None };
    let stream = client.stream_notifications(with_token(request, Some(&token))?);
    let mut stream = stream.await?.into_inner();

    // Each notification has a result of its own: one that is refused does not stop the others.
    let request = NotifyBatchRequest {
        notifications: vec![
            to_user(&user, "Payment received", Priority::High),
            to_user(&user, "", Priority::High),
            to_user(&user, "Your wallet was used", Priority::Urgent),
        ],
    };
    let request = with_token(request, service_token.as_deref())?;
    for result in client.notify_batch(request).await?.into_inner().results {
        match result.result {
            Some(Outcome::Notified(notified)) => {
                say(&format!("sent to {} inbox", notified.recipients));
            }
            Some(Outcome::Error(error)) => say(&format!("refused: {}", error.message)),
            None => {}
        }
    }

    while let Some(notification) = stream.message().await? {
        say(&format!("received: {}", notification.title));
        let request = MarkReadRequest {
            user: None,
            ids: vec![notification.id],
        };
        client.mark_read(with_token(request, Some(&token))?).await?;
        let request = with_token(GetUnreadCountRequest { user: None }, Some(&token))?;
        let count = client.get_unread_count(request).await?.into_inner();
        say(&format!("unread: {}", count.unread_count));
    }
    Ok(())
}

fn to_user(user: &str, title: &str, priority: Priority) -> NotifyRequest {
    NotifyRequest {
        user: Some(user.to_owned()),
        notification: Some(Notification {
            r#type: NotificationType::PaymentReceived.into(),
            title: title.to_owned(),
            priority: priority.into(),
            ..Notification::default()
        }),
        ..NotifyRequest::default()
    }
}

fn with_token<T>(message: T, token: Option<&str>) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn say(line: &str) {
    println!("{line}");
}
