//! Calls: typed errors, deadlines, and attempts that act once.

use std::time::Duration;

use serde_json::json;
use tidewire_client::{
    Client, ErrorKind, NotificationType, Notify, Position,
    proto::{
        AlertCondition, AlertRepeat, AlertRule, Decimal, DeleteAlertRequest, ListAlertsRequest,
        ListFiresRequest, ListNotificationsRequest, MarkReadRequest, PriceThreshold,
        RegisterAlertRequest, Unit, alert_condition::Kind, alert_repeat::Repeat,
    },
};
use tidewire_tests::{Link, Server, Token};

use super::{linked, url};

#[tokio::test]
async fn a_call_cut_at_any_frame_publishes_once() {
    let (server, link) = linked().await;
    for frame in 1..=8 {
        link.close_after_frame(frame);
        let client = Client::new(url(&link)).unwrap();
        let published = client.publish("demo:a", &frame).await.unwrap();
        assert_eq!(published.seq, u64::try_from(frame).unwrap());
    }
    let client = Client::new(server.url("")).unwrap();
    let history = client.history("demo:a", None, None).await.unwrap();
    assert_eq!((history.seq, history.messages.len()), (8, 8));
    let since = Some(Position {
        epoch: history.epoch,
        seq: 6,
    });
    let rest = client.history("demo:a", since, Some(1)).await.unwrap();
    assert_eq!(rest.messages[0].seq, Some(7));
}

#[tokio::test]
async fn a_notification_cut_at_any_frame_is_sent_once() {
    let (server, link) = linked().await;
    let token = Token::service();
    for frame in 1..=8 {
        link.close_after_frame(frame);
        let client = Client::builder(url(&link)).token(&token).build().unwrap();
        let title = format!("payment {frame}");
        let notify = Notify::user("ada", NotificationType::PaymentReceived, title);
        let notify = notify.data(&json!({"frame": frame})).unwrap();
        assert_eq!(client.notify(notify).await.unwrap().recipients, 1);
    }
    let user = Client::builder(server.url(""))
        .token(Token::of("ada").sign())
        .build()
        .unwrap();
    let page = user
        .notifications(ListNotificationsRequest::default())
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.unread_count), (8, 8));
    let ids = vec![page.items[0].id.clone()];
    let request = MarkReadRequest { user: None, ids };
    assert_eq!(user.mark_read(request).await.unwrap().unread_count, 7);
    assert_eq!(user.unread_count(None).await.unwrap(), 7);
}

#[tokio::test]
async fn an_unreachable_server_ends_a_call_at_its_deadline() {
    let link = Link::start("127.0.0.1:1".parse().unwrap()).await;
    let limit = Duration::from_millis(700);
    let client = Client::builder(url(&link))
        .call_timeout(limit)
        .build()
        .unwrap();
    let error = client.publish("demo:a", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let source = std::error::Error::source(&error).expect("the last failure");
    assert!(error.to_string().contains(&source.to_string()), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn refusals_are_typed() {
    let server = Server::start().await;
    let client = Client::new(server.url("")).unwrap();
    let error = client.publish("nowhere:a", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = client.price("BTC-USB").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let user = Client::builder(server.url(""))
        .token(Token::of("eve").sign())
        .build()
        .unwrap();
    let notify = Notify::user("ada", NotificationType::SecurityWarning, "not allowed");
    let error = user.notify(notify).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let stranger = Client::builder(server.url(""))
        .token("no token")
        .build()
        .unwrap();
    let error = stranger.publish("demo:a", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let error = Client::builder(server.url(""))
        .token("two\nlines")
        .build()
        .unwrap();
    let error = error.publish("demo:a", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Token, "{error}");
}

#[tokio::test]
async fn alerts_are_registered_listed_and_deleted() {
    let server = Server::builder()
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("kraken", "kraken", "ws://127.0.0.1:1")
        .start()
        .await;
    let client = Client::builder(server.url(""))
        .token(Token::of("ada").sign())
        .build()
        .unwrap();
    let threshold = PriceThreshold {
        symbol: "BTC-USD".to_owned(),
        threshold: Some(Decimal {
            value: "70000.5".to_owned(),
        }),
        ..PriceThreshold::default()
    };
    let rule = AlertRule {
        name: Some("From Rust".to_owned()),
        condition: Some(AlertCondition {
            kind: Some(Kind::PriceAbove(threshold)),
        }),
        repeat: Some(AlertRepeat {
            repeat: Some(Repeat::Once(Unit {})),
        }),
        ..AlertRule::default()
    };
    let request = RegisterAlertRequest {
        rule: Some(rule),
        ..RegisterAlertRequest::default()
    };
    let rule = client.register_alert(request).await.unwrap();
    let list = client
        .list_alerts(ListAlertsRequest::default())
        .await
        .unwrap();
    assert_eq!(list.items, std::slice::from_ref(&rule));
    assert!(
        client
            .list_fires(ListFiresRequest::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let id = rule.id;
    client
        .delete_alert(DeleteAlertRequest { user: None, id })
        .await
        .unwrap();
    assert!(
        client
            .list_alerts(ListAlertsRequest::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[test]
fn a_client_needs_a_runtime() {
    let error = Client::new("http://127.0.0.1:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOptions);
    assert!(error.to_string().contains("Tokio"), "{error}");
}

#[tokio::test]
async fn options_that_cannot_work_are_named() {
    for (url, expected) in [
        ("127.0.0.1:8080", "http:// or https://"),
        ("ws://127.0.0.1:8080", "http:// or https://"),
        ("http://127.0.0.1:8080/v1/ws", "no path"),
        ("http://", "http://127.0.0.1:8080"),
    ] {
        let error = Client::new(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOptions);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = Client::builder("http://a")
        .queue_capacity(0)
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("queue_capacity"), "{error}");
    let error = Client::builder("http://a")
        .call_timeout(Duration::ZERO)
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("call_timeout"), "{error}");
    let error = Client::builder("http://a")
        .ca_certificate("x")
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("https://"), "{error}");
}
