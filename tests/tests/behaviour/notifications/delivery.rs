//! Delivery outside of the application, by the real binary: webhooks after a kill, registrations
//! of devices, mail addresses, dead letters.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Server, ServerBuilder, Token, eventually, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{builder, call, done, note, notify, refusal, to_user};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A webhook that tests answer themselves.
struct Receiver {
    listener: TcpListener,
}

/// A request to the webhook.
struct Received {
    id: String,
    body: Value,
    stream: TcpStream,
}

impl Receiver {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    fn table(&self, rest: &str) -> String {
        let port = self.listener.local_addr().unwrap().port();
        format!(
            "[[delivery.webhook]]\nname = \"ops\"\nurl = \"http://127.0.0.1:{port}/hook\"\n\
             allow_private = true\nsecrets = [{SECRET:?}]\n{rest}"
        )
    }

    /// The next request.
    async fn next(&self) -> Received {
        within("a request to the webhook", async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
            loop {
                let count = stream.read(&mut part).await.unwrap();
                bytes.extend_from_slice(&part[..count]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let header = |name: &str| {
                    let lines = head.lines().filter_map(|line| line.split_once(": "));
                    let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
                    values.next().map(|(_, value)| value.to_owned())
                };
                let length: usize = header("content-length").unwrap().parse().unwrap();
                if body.len() < length {
                    continue;
                }
                assert!(header("webhook-signature").unwrap().starts_with("v1,"));
                return Received {
                    id: header("webhook-id").unwrap(),
                    body: serde_json::from_str(body).unwrap(),
                    stream,
                };
            }
        })
        .await
    }
}

impl Received {
    async fn answer(mut self, status: &str) {
        let response =
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        self.stream.write_all(response.as_bytes()).await.unwrap();
    }
}

fn with_webhook(folder: &TempDir, receiver: &Receiver, rest: &str) -> ServerBuilder {
    builder(folder).table(&receiver.table(rest))
}

#[tokio::test]
async fn a_webhook_gets_what_was_acknowledged_before_a_kill() {
    let (folder, receiver) = (TempDir::new().unwrap(), Receiver::new().await);
    let mut server = with_webhook(&folder, &receiver, "").start().await;
    let id = notify(&server, &to_user("ada", "Paid")).await;
    // It is on its way, and has no answer.
    let first = receiver.next().await;
    assert_eq!(first.body["data"]["user"], "ada");
    assert_eq!(first.body["data"]["notification"]["id"], id);
    assert_eq!(first.body["data"]["notification"]["title"], "Paid");
    server.kill().await;
    let server = with_webhook(&folder, &receiver, "").start().await;
    let again = receiver.next().await;
    assert_eq!(
        (&again.id, &again.body["data"]),
        (&first.id, &first.body["data"])
    );
    again.answer("204 No Content").await;
    // Once it is answered, it is not sent again.
    notify(&server, &to_user("ada", "Next")).await;
    let next = receiver.next().await;
    assert_eq!(next.body["data"]["notification"]["title"], "Next");
    assert_ne!(next.id, first.id);
    next.answer("204 No Content").await;
    let delivered = "tidewire_delivery_results_total";
    eventually("the count of deliveries", async || {
        let count = server.metric(delivered, "result=\"delivered\"").await;
        (count == 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broadcast_is_one_request_to_a_webhook() {
    let (folder, receiver) = (TempDir::new().unwrap(), Receiver::new().await);
    let server = with_webhook(&folder, &receiver, "").start().await;
    notify(
        &server,
        &json!({"everyone": true, "notification": note("All")}),
    )
    .await;
    let received = receiver.next().await;
    assert_eq!(received.body["data"]["notification"]["title"], "All");
    assert!(received.body["data"]["user"].is_null(), "{}", received.body);
    received.answer("200 OK").await;
}

#[tokio::test]
async fn a_refused_message_is_a_dead_letter_that_operators_list() {
    let (folder, receiver) = (TempDir::new().unwrap(), Receiver::new().await);
    let server = with_webhook(&folder, &receiver, "").start().await;
    notify(&server, &to_user("ada", "Refused")).await;
    let received = receiver.next().await;
    let id = received.id.clone();
    received.answer("400 Bad Request").await;
    let list = async |server: &Server| {
        let method = "AdminService/ListDeadLetters";
        server.call(method, None, &json!({})).await.json()
    };
    let letter = eventually("a dead letter", async || {
        let page = list(&server).await;
        page["items"].get(0).cloned()
    })
    .await;
    assert_eq!(
        (&letter["id"], &letter["endpoint"]),
        (&json!(id), &json!("ops"))
    );
    assert_eq!(
        (&letter["user"], &letter["channel"]),
        (&json!("ada"), &json!("webhook"))
    );
    assert_eq!(letter["titles"], json!(["Refused"]));
    assert!(
        letter["reason"].as_str().unwrap().contains("400"),
        "{letter}"
    );
    let method = "AdminService/ListDeadLetters";
    let bad = server.call(method, None, &json!({"after": "x"})).await;
    assert_eq!(refusal(&bad).1, "invalid_argument");
    // It is sent again with the same id, and is no dead letter any more.
    let letter = json!({"id": id});
    let _ = done(&server, "RetryDeadLetter", &letter).await;
    let received = receiver.next().await;
    assert_eq!(received.id, id);
    received.answer("200 OK").await;
    assert_eq!(list(&server).await["items"], json!([]));
    let (_, code, text) = refusal(&call(&server, "RetryDeadLetter", &letter).await);
    assert_eq!(code, "not_found", "{text}");
    let ada = Token::of("ada").sign();
    let method = "NotifyService/RetryDeadLetter";
    let refused = server.call(method, Some(&ada), &letter).await;
    assert_eq!(refusal(&refused).1, "permission_denied");
}

#[tokio::test]
async fn devices_and_mail_addresses_are_registered_and_end() {
    let push = "[delivery.push]\n\
        vapid_private_key = \"IQ9Ur0ykXoHS9gzfYX0aBjy9lvdrjx_PFUXmie9YRcY\"\n\
        subject = \"mailto:ops@example.com\"\n";
    let email = "[delivery.email]\nhost = \"127.0.0.1\"\nport = 1\nencryption = \"none\"\n\
        from = \"notify@example.com\"\nunsubscribe_url = \"https://example.com/v1/unsubscribe\"\n\
        unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]\n";
    let server = Server::builder().table(push).table(email).start().await;
    let key = done(&server, "GetPushKey", &json!({})).await;
    assert_eq!(key["publicKey"].as_str().unwrap().len(), 87, "{key}");
    let subscription = json!({"endpoint": "https://push.example.com/1", "keys": {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    }});
    let ada = Token::of("ada").sign();
    let register = json!({"subscription": subscription});
    let registered = server.call("NotifyService/RegisterPush", Some(&ada), &register);
    let registered = registered.await;
    assert_eq!(registered.status, 200, "{}", registered.body);
    let id = registered.json()["id"].clone();
    // A device belongs to its user.
    let of_bob = json!({"user": "bob", "id": id});
    let (status, code, _) = refusal(&call(&server, "UnregisterPush", &of_bob).await);
    assert_eq!((status, code.as_str()), (404, "not_found"));
    let unregister = json!({"id": id});
    let ended = server.call("NotifyService/UnregisterPush", Some(&ada), &unregister);
    assert_eq!(ended.await.status, 200);
    for (endpoint, text) in [
        ("http://push.example.com/1", "https"),
        ("https://127.0.0.1/1", "loopback"),
    ] {
        let mut bad = subscription.clone();
        bad["endpoint"] = json!(endpoint);
        let bad = json!({"user": "ada", "subscription": bad});
        let (status, _, message) = refusal(&call(&server, "RegisterPush", &bad).await);
        assert_eq!(status, 400, "{message}");
        assert!(
            message.contains("subscription.endpoint") && message.contains(text),
            "{message}"
        );
    }
    let address = json!({"user": "ada", "address": "ada@example.com"});
    let _ = done(&server, "SetEmail", &address).await;
    let own = server
        .call("NotifyService/SetEmail", Some(&ada), &address)
        .await;
    assert_eq!(own.status, 403, "{}", own.body);
    // A misspelled field removes nothing; an empty text does.
    let get = json!({"user": "ada"});
    let misspelled = json!({"user": "ada", "email": "ada@example.com"});
    let (_, code, text) = refusal(&call(&server, "SetEmail", &misspelled).await);
    assert_eq!(code, "invalid_argument");
    assert!(text.contains("`address`: missing"), "{text}");
    let found = done(&server, "GetEmail", &get).await;
    assert_eq!(found, json!({"address": "ada@example.com"}));
    let own = server
        .call("NotifyService/GetEmail", Some(&ada), &get)
        .await;
    assert_eq!(own.status, 403, "{}", own.body);
    let removal = json!({"user": "ada", "address": ""});
    assert_eq!(done(&server, "SetEmail", &removal).await, json!({}));
    assert_eq!(done(&server, "GetEmail", &get).await, json!({}));
    let bad = json!({"user": "ada", "address": "ada"});
    let (_, code, text) = refusal(&call(&server, "SetEmail", &bad).await);
    assert_eq!(code, "invalid_argument");
    assert!(text.contains("address"), "{text}");
    // A link that this server did not make changes nothing.
    let forged = server
        .http()
        .post(server.url("/v1/unsubscribe?token=x"))
        .send()
        .await;
    assert_eq!(forged.unwrap().status(), 400);
}

#[tokio::test]
async fn without_channels_their_calls_name_the_configuration() {
    let server = Server::start().await;
    for (method, body, table) in [
        (
            "RegisterPush",
            json!({"user": "ada", "subscription": {}}),
            "[delivery.push]",
        ),
        (
            "UnregisterPush",
            json!({"user": "ada", "id": "p"}),
            "[delivery.push]",
        ),
        ("RetryDeadLetter", json!({"id": "p"}), "[delivery.push]"),
        ("GetPushKey", json!({}), "[delivery.push]"),
        ("SetEmail", json!({"user": "ada"}), "[delivery.email]"),
        ("GetEmail", json!({"user": "ada"}), "[delivery.email]"),
    ] {
        let (status, code, text) = refusal(&call(&server, method, &body).await);
        assert_eq!(
            (status, code.as_str()),
            (400, "failed_precondition"),
            "{text}"
        );
        assert!(text.contains(table), "{text}");
    }
    // Mail addresses are no business of a local program without a token.
    let body = json!({"user": "ada", "address": "a@example.org"});
    let refused = server.call("NotifyService/SetEmail", None, &body).await;
    assert_eq!(refused.status, 403, "{refused:?}");
}
