//! Tokens: refused, renewed in place, fetched late, and revoked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tidewire_client::{BoxError, Client, ConnectionState, ErrorKind};
use tidewire_tests::{Server, Token, within};
use tokio::sync::mpsc;

use super::{end, linked, state, url};

fn connection_id(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Connected { connection_id, .. } => connection_id.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_token_closes_the_client_with_its_reason() {
    let server = Server::start().await;
    let client = Client::builder(server.url(""))
        .token("no token")
        .build()
        .unwrap();
    let mut numbers = client.messages("demo:a");
    let error = end(&mut numbers).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let closed = state(&client, |state| {
        matches!(state, ConnectionState::Closed { .. })
    })
    .await;
    let ConnectionState::Closed {
        error: Some(reason),
    } = closed
    else {
        panic!("{closed:?}")
    };
    assert_eq!(reason.to_string(), error.to_string());
    // A later subscription learns it too.
    let mut late = client.messages("demo:b");
    assert_eq!(end(&mut late).await.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_stale_token_is_replaced_once() {
    let server = Server::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let builder = Client::builder(server.url("")).token_source(move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let seconds = if number == 0 { -60 } else { 3_600 };
            Ok::<_, BoxError>(Token::of("ada").expires_in(seconds).sign())
        }
    });
    let client = builder.build().unwrap();
    let _events = client.user_events();
    state(&client, ConnectionState::is_connected).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);

    let stubborn = Client::builder(server.url(""))
        .token_source(|| async { Ok::<_, BoxError>(Token::of("ada").expires_in(-60).sign()) });
    let client = stubborn.build().unwrap();
    let error = end(&mut client.user_events()).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn a_token_is_renewed_in_place() {
    let server = Server::start().await;
    let (sender, mut fetched) = mpsc::unbounded_channel();
    let builder = Client::builder(server.url("")).token_source(move || {
        sender.send(()).unwrap();
        async { Ok::<_, BoxError>(Token::of("ada").expires_in(4).sign()) }
    });
    let client = builder.build().unwrap();
    let mut events = client.user_events();
    let connected = state(&client, ConnectionState::is_connected).await;
    // Beyond the life of the first token.
    for _ in 0..4 {
        within("a fetch", fetched.recv()).await.unwrap();
    }
    let backend = Client::builder(server.url(""))
        .token(Token::service())
        .build()
        .unwrap();
    let kind = tidewire_client::NotificationType::PaymentReceived;
    backend
        .notify(tidewire_client::Notify::user("ada", kind, "paid"))
        .await
        .unwrap();
    let _ = super::message(&mut events).await;
    assert_eq!(connection_id(&client.state()), connection_id(&connected));
}

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_late_token_is_discarded() {
    let (_server, link) = linked().await;
    let (sender, mut events) = mpsc::unbounded_channel();
    let calls = Arc::new(AtomicUsize::new(0));
    let builder = Client::builder(url(&link)).token_source(move || {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        let guard = Guard(sender.clone());
        async move {
            match number {
                // The server warns at once.
                0 => Ok(Token::of("ada").expires_in(4).sign()),
                1 => {
                    let _ = guard.0.send("pending");
                    std::future::pending::<Result<String, BoxError>>().await
                }
                _ => Ok(Token::of("bob").sign()),
            }
        }
    });
    let client = builder.build().unwrap();
    let _numbers = client.messages("demo:a");
    let next =
        async |events: &mut mpsc::UnboundedReceiver<_>| within("a fetch", events.recv()).await;
    assert_eq!(next(&mut events).await, Some("dropped"));
    assert_eq!(next(&mut events).await, Some("pending"));
    link.cut();
    assert_eq!(next(&mut events).await, Some("dropped"));
    let is_bob = |state: &ConnectionState| matches!(state, ConnectionState::Connected { user, .. } if user.as_deref() == Some("bob"));
    state(&client, is_bob).await;
}

#[tokio::test]
async fn a_failing_token_source_is_named_and_called_again() {
    let server = Server::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let builder = Client::builder(server.url("")).token_source(move || {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match number {
                0 => Err("the token route is down"),
                _ => Ok(Token::of("ada").sign()),
            }
        }
    });
    let client = builder.build().unwrap();
    let mut states = client.states();
    let _events = client.user_events();
    let is_lost = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    let lost = within("a failure", states.wait_for(is_lost))
        .await
        .unwrap()
        .clone();
    let ConnectionState::Reconnecting { error, .. } = lost else {
        panic!("{lost:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Token);
    assert!(
        error.to_string().contains("the token route is down"),
        "{error}"
    );
    state(&client, ConnectionState::is_connected).await;
}

#[tokio::test]
async fn an_operator_can_end_a_client() {
    let server = Server::start().await;
    let client = Client::builder(server.url(""))
        .token(Token::of("ada").sign())
        .build()
        .unwrap();
    let mut events = client.user_events();
    let connected = state(&client, ConnectionState::is_connected).await;
    let body = json!({"connectionId": connection_id(&connected)});
    let answer = server.call("AdminService/Disconnect", None, &body).await;
    assert_eq!(answer.json()["connections"], 1, "{}", answer.body);
    let error = end(&mut events).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn a_token_that_grew_old_in_an_outage_is_replaced_after_a_refusal_too() {
    let (server, link) = linked().await;
    let link = Arc::new(link);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counter, outage) = (calls.clone(), link.clone());
    let builder = Client::builder(url(&link)).token_source(move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let token = match number {
            0 => Token::of("ada").expires_in(-60),
            1 => {
                // Good, but the server cannot be reached now.
                outage.redirect(nowhere);
                Token::of("ada").id("old")
            }
            _ => Token::of("ada").id("new"),
        };
        async move { Ok::<_, BoxError>(token.sign()) }
    });
    let client = builder.build().unwrap();
    let _events = client.user_events();
    let is_outage = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.kind() == ErrorKind::Unavailable);
    state(&client, is_outage).await;
    // The outage lasts longer than the token is good for.
    let answer = server
        .call("AdminService/Revoke", None, &json!({"jti": "old"}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    link.redirect(server.address());
    state(&client, ConnectionState::is_connected).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_revoked_token_closes_the_client() {
    let server = Server::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let builder = Client::builder(server.url("")).token_source(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, BoxError>(Token::of("ada").id("one").sign()) }
    });
    let client = builder.build().unwrap();
    let mut events = client.user_events();
    state(&client, ConnectionState::is_connected).await;
    let answer = server
        .call("AdminService/Revoke", None, &json!({"jti": "one"}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let error = end(&mut events).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert!(error.to_string().contains("revoked"), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_source_that_panics_is_named_and_called_again() {
    let server = Server::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let builder = Client::builder(server.url("")).token_source(move || {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(number > 0, "the session store is gone");
            Ok::<_, BoxError>(Token::of("ada").sign())
        }
    });
    let client = builder.build().unwrap();
    let mut states = client.states();
    let _events = client.user_events();
    let is_lost = |state: &ConnectionState| {
        matches!(state, ConnectionState::Reconnecting { error, .. }
            if error.kind() == ErrorKind::Token && error.to_string().contains("session store"))
    };
    within("a failure", states.wait_for(is_lost)).await.unwrap();
    state(&client, ConnectionState::is_connected).await;
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_closes_the_client() {
    let server = Server::start().await;
    let client = Client::builder(server.url(""))
        .token("two\nlines")
        .build()
        .unwrap();
    let error = end(&mut client.messages("demo:a")).await;
    assert_eq!(error.kind(), ErrorKind::Token, "{error}");
}
