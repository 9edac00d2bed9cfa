//! Web Push: messages that a browser decrypts, and answers of push services.

use std::sync::Arc;

use serde_json::{Value, json};
use tidewire_delivery::{
    DeliveryConfig, Job, JobEnd, JobId, Outcome, OutgoingMessage, Senders, Target,
    web_push::{MAX_BODY_BYTES, PushSubscription, WebPushSender},
};
use tidewire_stream::{ManualClock, SharedClock, UserId};

use crate::{
    CREATED_MS, config,
    dispatcher::dispatcher,
    http_server::{HttpServer, response},
    message, message_of,
    node::Program,
};

/// Keys of a browser, from RFC 8291, appendix A.
const P256DH: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

fn push_config() -> DeliveryConfig {
    config(
        "[push]\n\
         vapid_private_key = \"yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw\"\n\
         subject = \"mailto:ops@example.com\"\n\
         ttl = \"1h\"\n\
         allow_private = true\n",
    )
}

fn senders() -> (Senders, Arc<ManualClock>) {
    let clock = ManualClock::at(CREATED_MS);
    let shared: SharedClock = clock.clone();
    (Senders::new(&push_config(), &shared).unwrap(), clock)
}

/// A subscription at a server that does not decrypt.
fn subscription(push: &WebPushSender, server: &HttpServer) -> PushSubscription {
    let document = json!({
        "endpoint": server.url(),
        "keys": {"p256dh": P256DH, "auth": AUTH},
    });
    let document = serde_json::to_vec(&document).unwrap();
    push.read_subscription(&document).unwrap()
}

#[tokio::test]
async fn a_browser_decrypts_the_message_and_the_service_verifies_the_sender() {
    let mut service = Program::start("push-service.mjs", &[]);
    let document = serde_json::to_vec(&service.line().await).unwrap();
    let (senders, _) = senders();
    let push = senders.push().unwrap();
    let subscription = push.read_subscription(&document).unwrap();
    let outcome = push.send("r1", &subscription, &message("n1")).await;
    assert_eq!(outcome, Outcome::Delivered);
    let received = service.line().await;
    assert_eq!(received["payload"]["id"], "n1");
    assert_eq!(received["payload"]["title"], "Payment received");
    assert_eq!(received["payload"]["priority"], "high");
    let header = |name: &str| {
        received["headers"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(header("content-encoding"), "aes128gcm");
    assert_eq!(header("ttl"), "3600");
    assert_eq!(header("urgency"), "high");
    assert_eq!(header("topic").len(), 32);
    let token = &received["token"];
    assert_eq!(token["verified"], true);
    assert_eq!(token["sender"], push.public_key());
    assert_eq!(token["claims"]["sub"], "mailto:ops@example.com");
    let origin = subscription.endpoint().trim_end_matches("/push/1");
    assert_eq!(token["claims"]["aud"], origin);
    let left = token["claims"]["exp"].as_i64().unwrap() - CREATED_MS / 1_000;
    assert_eq!(left, 12 * 3_600);

    // 4,000 emoji: 16,000 bytes.
    let long = message_of("n2", "a", &"🌊".repeat(4_000));
    let outcome = push.send("r1", &subscription, &long).await;
    assert_eq!(outcome, Outcome::Delivered);
    let received = service.line().await;
    let bytes = received["bytes"].as_u64().unwrap();
    let most = MAX_BODY_BYTES as u64;
    assert!((most - 3..=most).contains(&bytes), "{bytes}");
    let body = received["payload"]["body"].as_str().unwrap();
    assert!(body.trim_end_matches('…').chars().all(|one| one == '🌊'));
    assert_eq!(received["payload"]["cut"], true);
}

#[tokio::test]
async fn an_answer_decides_what_is_next() {
    let (senders, clock) = senders();
    let push = senders.push().unwrap();
    let send = async |head: &str| {
        let mut server = HttpServer::always(head, "why").await;
        let outcome = push
            .send("r1", &subscription(push, &server), &message("m"))
            .await;
        let request = server.request().await;
        assert!(request.header("authorization").starts_with("vapid t="));
        outcome
    };
    for head in ["201 Created", "200 OK", "202 Accepted"] {
        assert_eq!(send(head).await, Outcome::Delivered, "{head}");
    }
    for head in ["404 Not found", "410 Gone"] {
        assert!(matches!(send(head).await, Outcome::Gone { .. }), "{head}");
    }
    for head in [
        "413 Too large",
        "400 Bad request",
        "301 Moved\r\nlocation: /x",
    ] {
        assert!(
            matches!(send(head).await, Outcome::Permanent { .. }),
            "{head}"
        );
    }
    let Outcome::Retry { after, .. } = send("429 Slow down\r\nretry-after: 120").await else {
        panic!("a rate limit");
    };
    assert_eq!(after.map(|after| after.as_secs()), Some(120));
    assert!(matches!(send("503 Down").await, Outcome::Retry { .. }));
    let Outcome::Paused { reason } = send("403 Forbidden").await else {
        panic!("one endpoint refuses");
    };
    assert_eq!(reason, "HTTP status 403: why");
    clock.advance(1);
}

/// A message to another user than `ada`.
fn message_to(user: &str) -> OutgoingMessage {
    OutgoingMessage {
        user: UserId::new(user),
        ..message("m")
    }
}

#[tokio::test]
async fn refusals_of_several_users_are_a_configuration_error_until_one_accepts() {
    let (senders, _) = senders();
    let push = senders.push().unwrap();
    let mut server = HttpServer::start(|number| {
        let heads = [["403 Forbidden"; 6].as_slice(), &["201 Created"; 2]].concat();
        Some(response(heads.get(number).unwrap_or(&"403 Forbidden"), ""))
    })
    .await;
    let subscription = subscription(push, &server);
    // One user's endpoints are paused, however many refuse.
    for id in ["r1", "r2", "r3"] {
        let outcome = push.send(id, &subscription, &message_to("eve")).await;
        assert!(matches!(outcome, Outcome::Paused { .. }), "{outcome:?}");
        server.request().await;
    }
    let outcome = push.send("r4", &subscription, &message_to("bob")).await;
    assert!(matches!(outcome, Outcome::Paused { .. }), "{outcome:?}");
    server.request().await;
    // The third user's: the configuration is at fault. Those who refused wait for a probe.
    for (id, user, has_request) in [
        ("r5", "cleo", true),
        ("r6", "dan", true),
        ("r1", "eve", false),
        ("r5", "cleo", false),
    ] {
        let outcome = push.send(id, &subscription, &message_to(user)).await;
        assert!(
            matches!(outcome, Outcome::Misconfigured { .. }),
            "{outcome:?}"
        );
        assert_eq!(!server.is_quiet(), has_request, "{id}");
    }
    // An endpoint of somebody else is sent to at once, and ends it.
    let outcome = push.send("r7", &subscription, &message_to("ada")).await;
    assert_eq!(outcome, Outcome::Delivered);
    let outcome = push.send("r1", &subscription, &message_to("eve")).await;
    assert_eq!(outcome, Outcome::Delivered);
    let outcome = push.send("r1", &subscription, &message_to("eve")).await;
    assert!(matches!(outcome, Outcome::Paused { .. }), "{outcome:?}");
}

#[tokio::test]
async fn an_expired_subscription_is_gone_without_a_request() {
    let (senders, clock) = senders();
    let push = senders.push().unwrap();
    let mut server = HttpServer::always("201 Created", "").await;
    let document: Value = json!({
        "endpoint": server.url(),
        "expirationTime": CREATED_MS + 1,
        "keys": {"p256dh": P256DH, "auth": AUTH},
    });
    let subscription = push.read_subscription(&serde_json::to_vec(&document).unwrap());
    let subscription = subscription.unwrap();
    let outcome = push.send("r1", &subscription, &message("m")).await;
    assert_eq!(outcome, Outcome::Delivered);
    server.request().await;
    clock.advance(1);
    let outcome = push.send("r1", &subscription, &message("m")).await;
    assert!(matches!(outcome, Outcome::Gone { .. }));
    assert!(server.is_quiet());
}

#[test]
fn a_private_push_endpoint_is_refused() {
    let mut config = push_config();
    if let Some(push) = &mut config.push {
        push.allow_private = false;
    }
    let clock: SharedClock = ManualClock::at(CREATED_MS);
    let senders = Senders::new(&config, &clock).unwrap();
    for endpoint in [
        "https://127.0.0.1/x",
        "https://[fd00::1]/x",
        "http://example.com/x",
    ] {
        let document = json!({"endpoint": endpoint, "keys": {"p256dh": P256DH, "auth": AUTH}});
        let document = serde_json::to_vec(&document).unwrap();
        let error = senders
            .push()
            .unwrap()
            .read_subscription(&document)
            .unwrap_err();
        assert_eq!(error.field, "subscription.endpoint", "{error}");
    }
}

#[tokio::test]
async fn the_end_of_an_old_registration_spares_the_new_one() {
    let (senders, _) = senders();
    let mut server = HttpServer::start(|number| {
        let head = ["410 Gone", "201 Created"][number];
        Some(response(head, ""))
    })
    .await;
    let subscription = subscription(senders.push().unwrap(), &server);
    let (dispatcher, mut finished) = dispatcher(Arc::new(senders));
    for (registration, expected) in [("old", None), ("new", Some(JobEnd::Delivered))] {
        let target = Target::Push {
            registration: registration.into(),
            subscription: subscription.clone(),
        };
        dispatcher.offer(Job::new(JobId::new(registration), target, message("m")));
        let (job, end) = finished.recv().await.unwrap();
        let Target::Push {
            registration: found,
            ..
        } = &job.target
        else {
            panic!("{job:?}");
        };
        // The store removes the registration that the job names, and no other of this browser.
        assert_eq!(&**found, registration);
        match expected {
            Some(expected) => assert_eq!(end, expected),
            None => assert!(matches!(end, JobEnd::Gone { .. }), "{end:?}"),
        }
        server.request().await;
    }
    dispatcher.stop().await;
}
