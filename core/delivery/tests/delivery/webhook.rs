//! Webhooks: signatures, answers and templates.

use std::{sync::Arc, time::Duration};

use tidewire_delivery::{
    DeliveryConfig, Job, JobId, Outcome, Secret, Sender as _, Senders, Target, webhook::Template,
};
use tidewire_stream::{ManualClock, SharedClock, SystemClock};

use crate::{
    CREATED_MS, OLD_SECRET, SECRET, http_server::HttpServer, message, message_of, node::Program,
    webhook_config,
};

/// Makes one attempt to send a message to the webhook of the configuration.
async fn attempt(senders: &Senders, id: &str) -> Outcome {
    let job = Job::new(JobId::new(id), Target::Webhook("ops".into()), message(id));
    senders.send(&job).await
}

fn senders(config: &DeliveryConfig) -> (Senders, Arc<ManualClock>) {
    let clock = ManualClock::at(CREATED_MS);
    let shared: SharedClock = clock.clone();
    (Senders::new(config, &shared).unwrap(), clock)
}

#[tokio::test]
async fn a_library_that_is_not_ours_verifies_both_signatures() {
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut receiver = Program::start("webhook-receiver.mjs", &[SECRET, OLD_SECRET, other]);
    let port = receiver.line().await["port"].as_u64().unwrap();
    let config = webhook_config(&format!("http://127.0.0.1:{port}/hook"));
    // The library compares the time with the real one.
    let clock: SharedClock = Arc::new(SystemClock);
    let senders = Senders::new(&config, &clock).unwrap();
    assert_eq!(attempt(&senders, "msg_1").await, Outcome::Delivered);
    let received = receiver.line().await;
    assert_eq!(received["verified"], serde_json::json!([true, true, false]));
    assert_eq!(received["headers"]["webhook-id"], "msg_1");
    assert_eq!(received["headers"]["content-type"], "application/json");
    assert_eq!(received["body"]["type"], "payment_received");
    assert_eq!(received["body"]["timestamp"], "2025-06-15T15:06:40Z");
    assert_eq!(received["body"]["data"]["user"], "ada");
    let notification = &received["body"]["data"]["notification"];
    assert_eq!(notification["title"], "Payment received");
}

#[tokio::test]
async fn each_attempt_has_the_same_id_and_body_and_a_fresh_signature() {
    let mut server = HttpServer::always("503 Down", "").await;
    let (senders, clock) = senders(&webhook_config(&server.url()));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let outcome = attempt(&senders, "msg_1").await;
        assert!(matches!(outcome, Outcome::Retry { after: None, .. }));
        seen.push(server.request().await);
        clock.advance(300_000);
    }
    for (place, request) in seen.iter().enumerate() {
        assert_eq!(request.header("webhook-id"), "msg_1");
        assert_eq!(request.body, seen[0].body);
        let seconds = CREATED_MS / 1_000 + 300 * i64::try_from(place).unwrap();
        assert_eq!(request.header("webhook-timestamp"), seconds.to_string());
        let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
        assert_eq!(signatures.len(), 2);
        assert!(signatures.iter().all(|one| one.starts_with("v1,")));
    }
    let mut signatures: Vec<_> = seen
        .iter()
        .map(|request| request.header("webhook-signature"))
        .collect();
    signatures.dedup();
    assert_eq!(signatures.len(), 3);
    assert_eq!(seen[0].header("user-agent"), "tidewire/0.1.0");
}

#[tokio::test]
async fn an_answer_decides_what_is_next() {
    let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
    let date = "503 Down\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:51:37 GMT";
    for (head, body, after) in [
        ("500 Oops", "", None),
        ("502 Bad gateway", "", None),
        ("408 Timeout", "", None),
        ("425 Too early", "", None),
        ("429 Slow down", "", None),
        ("429 Slow down\r\nretry-after: 7", "", seconds(7.0)),
        (date, "", seconds(120.0)),
        (
            "429 Slow down\r\nretry-after: 1",
            r#"{"message": "You are being rate limited.", "retry_after": 0.4}"#,
            seconds(0.4),
        ),
        (
            "429 Slow down",
            r#"{"ok": false, "parameters": {"retry_after": 35}}"#,
            seconds(35.0),
        ),
    ] {
        let server = HttpServer::always(head, body).await;
        let (senders, _) = senders(&webhook_config(&server.url()));
        match attempt(&senders, "m").await {
            Outcome::Retry { after: found, .. } => assert_eq!(found, after, "{head}"),
            outcome => panic!("{head}: {outcome:?}"),
        }
    }
    for head in ["200 OK", "201 Created", "204 No content"] {
        let server = HttpServer::always(head, "").await;
        let (senders, _) = senders(&webhook_config(&server.url()));
        assert_eq!(attempt(&senders, "m").await, Outcome::Delivered, "{head}");
    }
    for (head, reason) in [
        ("400 Bad request", "HTTP status 400: line 1  line 2"),
        ("401 Unauthorized", "HTTP status 401: "),
        ("404 Not found", "HTTP status 404: "),
        ("413 Too large", "HTTP status 413: "),
        (
            "302 Found\r\nlocation: http://127.0.0.1:1/x",
            "HTTP status 302, a redirect",
        ),
        (
            "308 Moved\r\nlocation: /other",
            "HTTP status 308, a redirect",
        ),
    ] {
        let mut server = HttpServer::always(head, "line 1\r\nline 2").await;
        let (senders, _) = senders(&webhook_config(&server.url()));
        match attempt(&senders, "m").await {
            Outcome::Permanent { reason: found } => assert!(found.starts_with(reason), "{found}"),
            outcome => panic!("{head}: {outcome:?}"),
        }
        server.request().await;
        assert!(server.is_quiet(), "no redirect is followed");
    }
    let server = HttpServer::always("410 Gone", "").await;
    let (senders, _) = senders(&webhook_config(&server.url()));
    assert!(matches!(attempt(&senders, "m").await, Outcome::Gone { .. }));
}

#[tokio::test]
async fn a_failed_connection_and_silence_are_retried_and_reveal_no_url() {
    let mut config = webhook_config("http://127.0.0.1:1/secret-key");
    let (refused, _) = senders(&config);
    let Outcome::Retry { reason, .. } = attempt(&refused, "m").await else {
        panic!("nobody listens");
    };
    assert!(
        !reason.contains("secret-key") && reason.contains("refused"),
        "{reason}"
    );
    let server = HttpServer::start(|_| None).await;
    config.webhook[0].url = Secret::new(server.url());
    config.timeout = Duration::from_secs(1);
    let (silent, _) = senders(&config);
    let Outcome::Retry { reason, .. } = attempt(&silent, "m").await else {
        panic!("the server is silent");
    };
    assert_eq!(reason, "no response in time");
    let debug = format!("{config:?} {silent:?}");
    assert!(
        !debug.contains("/hook/key") && !debug.contains(SECRET),
        "{debug}"
    );
}

#[tokio::test]
async fn an_endless_response_is_not_read_to_its_end() {
    let head = "HTTP/1.1 500 Oops\r\ncontent-length: 1000000000000\r\n\r\n";
    let response = format!("{head}{}", "x".repeat(64 << 10));
    let server = HttpServer::start(move |_| Some(response.clone())).await;
    let (senders, _) = senders(&webhook_config(&server.url()));
    let Outcome::Retry { reason, .. } = attempt(&senders, "m").await else {
        panic!("a status of 500");
    };
    assert!(
        reason.starts_with("HTTP status 500: xxx") && reason.len() < 300,
        "{reason}"
    );
}

#[tokio::test]
async fn chats_receive_their_own_form() {
    let mut server = HttpServer::always("200 OK", "").await;
    for (template, field, text) in [
        (Template::Slack, "text", "a_b &lt;!here&gt;\n1.5"),
        (Template::Discord, "content", "a_b <!here>\n1.5"),
        (Template::Telegram, "text", "a\\_b <\\!here\\>\n1\\.5"),
    ] {
        let mut config = webhook_config(&server.url());
        config.webhook[0].template = template;
        config.webhook[0].secrets.clear();
        let is_telegram = template == Template::Telegram;
        config.webhook[0].chat_id = is_telegram.then(|| "-100".to_owned());
        let (senders, _) = senders(&config);
        let webhook = senders.webhooks().next().unwrap();
        let outcome = webhook.send(&message_of("m", "a_b <!here>", "1.5")).await;
        assert_eq!(outcome, Outcome::Delivered);
        let request = server.request().await;
        assert_eq!(request.path, "/hook/key");
        assert_eq!(request.header("webhook-signature"), "");
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(body[field], text, "{template:?}");
    }
}

#[tokio::test]
async fn an_accepted_message_is_delivered_even_if_the_response_breaks_off() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let server = HttpServer::start(move |number| (number == 0).then(|| head.to_owned())).await;
    let mut config = webhook_config(&server.url());
    config.timeout = Duration::from_secs(1);
    let (senders, _) = senders(&config);
    assert_eq!(attempt(&senders, "m").await, Outcome::Delivered);
}
