//! Identity: authentication of clients, and permissions of each identity.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, Close, IdentityProvider, KeyPair, Message, Refusal, SECRET, Server, Token, Transport,
    client::{SocketRequest, SseStream},
};
use tonic::Code;

on_every_transport_and_tls!(
    publishing_needs_the_right_scope,
    reading_needs_the_right_token,
    a_user_has_its_own_channel,
    a_token_can_be_sent_after_connecting,
    a_bad_token_is_refused_at_connect,
    a_bad_token_on_an_open_connection_changes_nothing,
    a_connection_closes_when_its_token_expires,
    a_fresh_token_extends_the_session,
    a_narrower_token_ends_subscriptions,
    a_server_can_require_a_token,
    public_keys_verify_tokens,
);

async fn publishing_needs_the_right_scope(transport: Transport) {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .namespace("chat", "publish = \"authenticated\"")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    let service = Token::service();
    // Identity, channel and expected error.
    let cases = [
        (None, "orders:1", Some("permission_denied")),
        (None, "chat:1", Some("permission_denied")),
        (None, "prices:BTC-USD", Some("not_found")),
        (None, "demo:1", None),
        (Some(&ada), "orders:1", Some("permission_denied")),
        (Some(&ada), "chat:1", None),
        (Some(&ada), "market:overview", Some("permission_denied")),
        (Some(&service), "orders:1", None),
        (Some(&service), "market:overview", Some("permission_denied")),
    ];
    for (token, channel, error) in cases {
        let token = token.map(String::as_str);
        let mut client = Client::connect_as(transport, &server, token).await;
        let reply = client
            .request("publish", json!({"channel": channel, "data": 1}))
            .await;
        match error {
            Some(code) => assert_eq!(reply.error_code(), code, "{channel}: {}", reply.text),
            None => assert_eq!(reply.kind, "published", "{channel}: {}", reply.text),
        }
    }
}

async fn reading_needs_the_right_token(transport: Transport) {
    let server = Server::builder()
        .namespace("members", "access = \"authenticated\"")
        .namespace("vault", "access = \"owner\"")
        .start()
        .await;
    let code = async |token: Option<String>, channel: &str| {
        let mut client = Client::connect_as(transport, &server, token.as_deref()).await;
        let result = client.subscribe(channel).await;
        result["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let ada = || Token::of("ada");
    assert_eq!(code(None, "members:1").await, "permission_denied");
    assert_eq!(code(Some(ada().sign()), "members:1").await, "");
    assert_eq!(code(None, "user:ada").await, "permission_denied");
    assert_eq!(
        code(Some(Token::of("bob").sign()), "user:ada").await,
        "permission_denied"
    );
    assert_eq!(code(Some(ada().sign()), "user:ada").await, "");
    assert_eq!(code(Some(ada().sign()), "vault:ada").await, "");
    assert_eq!(
        code(Some(ada().sign()), "vault:bob").await,
        "permission_denied"
    );
    let granted = Token::of("ada").channels(&["vault:b*"]).sign();
    assert_eq!(code(Some(granted), "vault:bob").await, "");
}

/// Sends a message to a user, with the service scope.
async fn send_to_user(server: &Server, user: &str, data: Value) {
    let body = json!({"user": user, "data": data});
    let answer = server
        .call("StreamService/SendToUser", Some(&Token::service()), &body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["channel"], format!("user:{user}"));
}

/// Returns the channels of an `authenticated` or a `welcome`.
fn channels(data: &Value) -> Vec<&str> {
    let subscriptions = data["subscriptions"].as_array().unwrap();
    subscriptions
        .iter()
        .map(|subscription| subscription["channel"].as_str().unwrap())
        .collect()
}

async fn a_user_has_its_own_channel(transport: Transport) {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let mut first = Client::connect_as(transport, &server, Some(&ada)).await;
    let mut second = Client::connect_as(transport, &server, Some(&ada)).await;
    let bob = Token::of("bob").sign();
    let mut other = Client::connect_as(transport, &server, Some(&bob)).await;
    assert_eq!(first.welcome().data["userId"], "ada");
    assert!(first.welcome().data["expiresAt"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(channels(&first.welcome().data), ["user:ada"]);
    send_to_user(&server, "ada", json!({"hello": "ada"})).await;
    send_to_user(&server, "bob", json!({"hello": "bob"})).await;
    for client in [&mut first, &mut second] {
        let message = client.next().await.expect("message");
        assert_eq!(message.channel.as_deref(), Some("user:ada"));
        assert_eq!(
            (message.seq, &message.data),
            (Some(1), &json!({"hello": "ada"}))
        );
    }
    assert_eq!(other.next().await.data, json!({"hello": "bob"}));
    // The service scope is required.
    let body = json!({"user": "bob", "data": 1});
    let refused = server
        .call("StreamService/SendToUser", Some(&ada), &body)
        .await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (403, &json!("permission_denied"))
    );
}

async fn a_token_can_be_sent_after_connecting(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let token = Token::of("ada").sign();
    let reply = client
        .request("auth", json!({"token": token}))
        .await
        .expect("authenticated");
    assert_eq!(reply.data["userId"], "ada");
    assert!(reply.data["expiresAt"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(channels(&reply.data), ["user:ada"]);
    send_to_user(&server, "ada", json!(1)).await;
    assert_eq!(client.next_on("user:ada").await.data, 1);
}

async fn a_bad_token_is_refused_at_connect(transport: Transport) {
    let server = Server::start().await;
    let bad = [
        "no token at all".to_owned(),
        Token::of("ada").sign_with("another secret, also 32 bytes or more"),
        Token::of("ada").expires_in(-5).sign(),
    ];
    for token in bad {
        match Client::open(transport, &server, Some(&token))
            .await
            .unwrap_err()
        {
            Refusal::Http(status, body) => {
                assert_eq!(status, 401, "{body}");
                let body: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body["code"], "unauthenticated");
            }
            Refusal::Grpc(code, _) => assert_eq!(code, Code::Unauthenticated),
            Refusal::Unreachable(reason) => panic!("no answer: {reason}"),
        }
    }
}

async fn a_bad_token_on_an_open_connection_changes_nothing(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let refused = client.request("auth", json!({"token": "nonsense"})).await;
    assert_eq!(refused.error_code(), "unauthenticated");
    client.settle().await;
    let ada = json!({"token": Token::of("ada").sign()});
    let _ = client.request("auth", ada).await.expect("authenticated");
    // Another user's token belongs to another connection.
    let bob = json!({"token": Token::of("bob").sign()});
    assert_eq!(
        client.request("auth", bob).await.error_code(),
        "permission_denied"
    );
    send_to_user(&server, "ada", json!("still ada")).await;
    assert_eq!(client.next_on("user:ada").await.data, "still ada");
}

async fn a_connection_closes_when_its_token_expires(transport: Transport) {
    let server = Server::start().await;
    let token = Token::of("ada").expires_in(2).sign();
    let mut client = Client::connect_as(transport, &server, Some(&token)).await;
    let told = client.next_of("token_expiring").await;
    assert_eq!(told.data["expiresAt"], client.welcome().data["expiresAt"]);
    let (last, close) = client.drain().await;
    let last = last.last().expect("an error message");
    assert_eq!(last.error_code(), "unauthenticated");
    match close {
        Close::WebSocket { code, .. } => assert_eq!(code, 4005),
        Close::Sse => {}
        Close::Grpc { code, .. } => assert_eq!(code, Code::Unauthenticated),
        Close::Broken(reason) => panic!("{reason}"),
    }
}

async fn a_fresh_token_extends_the_session(transport: Transport) {
    let server = Server::start().await;
    let token = Token::of("ada").expires_in(3).sign();
    let mut client = Client::connect_as(transport, &server, Some(&token)).await;
    let _ = client.next_of("token_expiring").await;
    let fresh = json!({"token": Token::of("ada").sign()});
    let renewed = client.request("auth", fresh).await.expect("authenticated");
    let ends = |data: &Value| data["expiresAt"].as_i64().unwrap();
    assert!(ends(&renewed.data) > ends(&client.welcome().data));
    // Another connection whose token expires at the same time stays when the first one goes.
    let mut other = Client::connect_as(transport, &server, Some(&token)).await;
    other.closed().await;
    send_to_user(&server, "ada", json!("still here")).await;
    assert_eq!(client.next_on("user:ada").await.data, "still here");
}

async fn a_narrower_token_ends_subscriptions(transport: Transport) {
    let server = Server::builder()
        .namespace("room", "access = \"owner\"")
        .start()
        .await;
    let wide = Token::of("ada").channels(&["room:*"]).sign();
    let mut client = Client::connect_as(transport, &server, Some(&wide)).await;
    for channel in ["room:7", "room:8", "demo:a"] {
        client.subscribe(channel).await;
    }
    // An operator's subscription needs no permission, whoever made it first.
    for channel in ["room:8", "room:9"] {
        let wanted = json!({"user": "ada", "channel": channel});
        let answer = server
            .call("AdminService/SubscribeUser", None, &wanted)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let _ = client.next_of("subscribed").await;
    let narrow = json!({"token": Token::of("ada").sign()});
    let renewed = client.request("auth", narrow).await.expect("authenticated");
    let mut left = channels(&renewed.data);
    left.sort_unstable();
    assert_eq!(left, ["demo:a", "room:8", "room:9", "user:ada"]);
    let told = client.next_of("unsubscribed").await;
    assert_eq!(
        (told.id, told.data),
        (
            None,
            json!({"channels": ["room:7"], "reason": "the client may not read the channel any more"})
        )
    );
    for channel in ["room:7", "room:8", "room:9"] {
        server.publish(channel, json!("secret")).await;
    }
    assert_eq!(client.next().await.channel.as_deref(), Some("room:8"));
    assert_eq!(client.next().await.channel.as_deref(), Some("room:9"));
    // A wider token allows the channel again.
    let _ = client
        .request("auth", json!({"token": wide}))
        .await
        .expect("authenticated");
    assert_eq!(client.subscribe("room:7").await["error"], Value::Null);
}

/// Asserts that the server closes a connection with the code of its transport.
async fn assert_closed(client: &mut Client, websocket: u16, grpc: Code) {
    match client.closed().await {
        Close::WebSocket { code, .. } => assert_eq!(code, websocket),
        Close::Grpc { code, .. } => assert_eq!(code, grpc),
        other => panic!("{other:?}"),
    }
}

async fn a_server_can_require_a_token(transport: Transport) {
    let server = Server::builder()
        .set("auth", "anonymous = false")
        .start()
        .await;
    let token = Token::of("ada").sign();
    if transport == Transport::Sse {
        // An SSE stream cannot authenticate later, because it cannot send.
        let refused = Client::open(transport, &server, None).await.unwrap_err();
        assert!(matches!(refused, Refusal::Http(401, _)), "{refused:?}");
        Client::connect_as(transport, &server, Some(&token)).await;
        return;
    }
    let mut client = Client::connect(transport, &server).await;
    assert_eq!(client.welcome().data["userId"], Value::Null);
    for (kind, data) in [
        ("subscribe", json!({"channels": ["demo:a"]})),
        ("publish", json!({"channel": "demo:a", "data": 1})),
        ("history", json!({"channel": "demo:a"})),
        ("get_price", json!({"symbol": "BTC-USD"})),
    ] {
        let refused = client.request(kind, data).await;
        assert_eq!(refused.error_code(), "unauthenticated", "{kind}");
    }
    let reply = client
        .request("auth", json!({"token": token}))
        .await
        .expect("authenticated");
    assert_eq!(reply.data["userId"], "ada");
    assert_eq!(client.subscribe("demo:a").await["error"], Value::Null);

    let mut client = Client::connect(transport, &server).await;
    client
        .send(&json!({"type": "auth", "id": "a", "data": {"token": "nonsense"}}))
        .await;
    assert_closed(&mut client, 4500, Code::Unauthenticated).await;
}

#[tokio::test]
async fn a_browser_sends_its_token_as_a_subprotocol() {
    let server = Server::start().await;
    let bearer = format!("tidewire.bearer.{}", Token::of("ada").sign());
    for protocol in ["tidewire.v1.json", "tidewire.v1.proto"] {
        let mut request = SocketRequest::offering(protocol);
        request.protocols.push(bearer.clone());
        let (mut socket, chosen) = request.open(&server).await.unwrap();
        // The server never returns the token.
        assert_eq!(chosen.as_deref(), Some(protocol));
        assert_eq!(socket.next().await.expect("welcome").data["userId"], "ada");
    }
}

#[tokio::test]
async fn an_event_source_sends_its_token_in_the_query() {
    let server = Server::start().await;
    let query = format!("?token={}", Token::of("ada").sign());
    let mut stream = SseStream::open(&server, &query, &[]).await.unwrap();
    let welcome = stream.next().await.unwrap().message().expect("welcome");
    assert_eq!(welcome.data["userId"], "ada");
    let refused = SseStream::open(&server, "?token=nonsense", &[])
        .await
        .unwrap_err();
    assert!(matches!(refused, Refusal::Http(401, _)), "{refused:?}");
}

#[tokio::test]
async fn unary_calls_carry_the_callers_identity() {
    let server = Server::builder()
        .set("auth", "anonymous = false")
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let body = json!({"channel": "orders:1", "data": 1});
    let call = async |token: Option<&str>| {
        let answer = server.call("StreamService/Publish", token, &body).await;
        (
            answer.status,
            answer.json()["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    assert_eq!(call(None).await, (401, "unauthenticated".to_owned()));
    assert_eq!(
        call(Some("nonsense")).await,
        (401, "unauthenticated".to_owned())
    );
    assert_eq!(call(Some(&Token::of("ada").sign())).await.0, 403);
    assert_eq!(call(Some(&Token::service())).await.0, 200);
    let forged = Token::of("ada")
        .scope("service")
        .sign_with(&SECRET.to_uppercase());
    assert_eq!(call(Some(&forged)).await.0, 401);
}

/// Starts a server that trusts the public keys of all pairs, and no secret.
async fn with_public_keys() -> Server {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.pem");
    let keys: String = KeyPair::ALL.map(KeyPair::public).concat();
    std::fs::write(&path, keys).unwrap();
    Server::builder()
        .set("auth", &format!("public_key_file = {path:?}"))
        .set(
            "auth",
            "hmac_secret = \"another secret, also 32 bytes or more\"",
        )
        .start()
        .await
}

async fn public_keys_verify_tokens(transport: Transport) {
    let server = with_public_keys().await;
    for key in KeyPair::ALL {
        let token = Token::of("ada").sign_as(key, None);
        let mut client = Client::connect_as(transport, &server, Some(&token)).await;
        assert_eq!(client.welcome().data["userId"], "ada", "{key:?}");
        // A new token may be signed by another key.
        let fresh = Token::of("ada").sign_as(KeyPair::Ed25519, Some("any"));
        let renewed = client.request("auth", json!({"token": fresh})).await;
        let _ = renewed.expect("authenticated");
        // The public key, which anyone has, used as a secret.
        let forged = Token::of("ada").sign_with(key.public());
        assert!(
            Client::open(transport, &server, Some(&forged))
                .await
                .is_err()
        );
    }
}

/// Publishes with this token, and returns the status.
async fn status_of(server: &Server, token: &str) -> u16 {
    let body = json!({"channel": "demo:a", "data": 1});
    let answer = server
        .call("StreamService/Publish", Some(token), &body)
        .await;
    answer.status
}

#[tokio::test]
async fn rotated_and_unreachable_provider_keys_work() {
    let provider = IdentityProvider::start(&[KeyPair::Rsa.web_key("old")]).await;
    let server = Server::builder()
        .set("auth", &format!("jwks_url = {:?}", provider.url()))
        .start()
        .await;
    let old = Token::of("ada").sign_as(KeyPair::Rsa, Some("old"));
    let new = Token::of("ada").sign_as(KeyPair::P256, Some("new"));
    assert_eq!(status_of(&server, &old).await, 200);
    provider.set_keys(&[KeyPair::Rsa.web_key("old"), KeyPair::P256.web_key("new")]);
    // The server fetches an unknown key, and the token waits for it.
    assert_eq!(status_of(&server, &new).await, 200);
    let mut client = Client::connect_as(Transport::Grpc, &server, Some(&new)).await;
    client.settle().await;
    assert_eq!(provider.requests(), 2);

    provider.set_unavailable();
    let made_up = Token::of("ada").sign_as(KeyPair::Ed25519, Some("made up"));
    for _ in 0..20 {
        // The key may be a new one, so the token is not called bad.
        assert_eq!(status_of(&server, &made_up).await, 503);
    }
    assert!(provider.requests() < 10, "{}", provider.requests());
    server.log_line("the cached keys stay in force").await;
    assert_eq!(
        server
            .log()
            .matches("the key set cannot be fetched")
            .count(),
        1
    );
    assert_eq!(status_of(&server, &old).await, 200);
    assert_eq!(status_of(&server, &new).await, 200);
}

#[tokio::test]
async fn a_server_starts_without_its_key_provider() {
    let provider = IdentityProvider::start(&[]).await;
    provider.set_unavailable();
    let server = Server::builder()
        .set("auth", &format!("jwks_url = {:?}", provider.url()))
        .start()
        .await;
    server.log_line("the key set cannot be fetched").await;
    provider.set_keys(&[KeyPair::Ed25519.web_key("k")]);
    let token = Token::of("ada").sign_as(KeyPair::Ed25519, Some("k"));
    assert_eq!(status_of(&server, &token).await, 200);
}

#[tokio::test]
async fn audience_issuer_and_times_of_a_token_are_checked() {
    let server = Server::builder()
        .set("auth", "audience = \"tidewire\"")
        .set("auth", "issuer = [\"https://id.example.com\", \"other\"]")
        .set("auth", "leeway = \"20s\"")
        .start()
        .await;
    let good = || {
        Token::of("ada")
            .claim("aud", json!(["web", "tidewire"]))
            .claim("iss", "other")
    };
    assert_eq!(status_of(&server, &good().sign()).await, 200);
    assert_eq!(status_of(&server, &good().expires_in(-5).sign()).await, 200);
    for bad in [
        Token::of("ada"),
        good().claim("aud", "web"),
        good().claim("iss", "https://id.example.org"),
        good().claim("nbf", 4_000_000_000_i64),
        good().expires_in(-60),
    ] {
        assert_eq!(status_of(&server, &bad.sign()).await, 401, "{bad:?}");
    }
}

/// The error and the close code that a refused WebSocket gets.
async fn refusal_on_socket(server: &Server, request: SocketRequest) -> (Message, u16) {
    let (mut socket, _) = request.open(server).await.expect("an upgrade");
    let error = socket.next().await;
    (error, socket.close_code().await)
}

/// A browser's request with a token among its subprotocols.
fn browser_request(protocol: &str, token: &str) -> SocketRequest {
    SocketRequest {
        protocols: vec![protocol.to_owned(), format!("tidewire.bearer.{token}")],
        ..SocketRequest::default()
    }
}

#[tokio::test]
async fn a_browser_reads_why_its_token_is_refused() {
    let server = Server::start().await;
    for protocol in ["tidewire.v1.json", "tidewire.v1.proto"] {
        let request = browser_request(protocol, "nonsense");
        let (error, code) = refusal_on_socket(&server, request).await;
        assert_eq!(error.error_code(), "unauthenticated");
        assert!(error.data["message"].as_str().unwrap().contains("token"));
        assert_eq!(code, 4500);
    }
    let mut request = SocketRequest {
        token: Some("nonsense".to_owned()),
        ..SocketRequest::default()
    };
    let refused = request.open(&server).await.err();
    assert!(
        matches!(refused, Some(Refusal::Http(401, _))),
        "{refused:?}"
    );
    request.origin = Some(format!("http://{}", server.address()));
    let (error, code) = refusal_on_socket(&server, request).await;
    assert_eq!((error.error_code(), code), ("unauthenticated", 4500));
}

#[tokio::test]
async fn a_valid_token_over_a_limit_may_come_back() {
    let server = Server::builder()
        .set("auth", "anonymous = false")
        .set("limits", "connections_per_user = 1")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    for transport in [
        Transport::WebSocketJson,
        Transport::WebSocketProto,
        Transport::Grpc,
    ] {
        let first = Client::connect_as(Transport::WebSocketJson, &server, Some(&ada)).await;
        let mut second = Client::connect(transport, &server).await;
        let refused = second.request("auth", json!({"token": ada})).await;
        assert_eq!(refused.error_code(), "resource_exhausted");
        assert!(
            refused.data["retryAfterMs"].as_u64().unwrap() > 0,
            "{}",
            refused.text
        );
        assert_closed(&mut second, 4004, Code::ResourceExhausted).await;
        let request = browser_request("tidewire.v1.json", &ada);
        let (error, code) = refusal_on_socket(&server, request).await;
        assert_eq!((error.error_code(), code), ("resource_exhausted", 4004));
        assert!(
            error.data["retryAfterMs"].as_u64().unwrap() > 0,
            "{}",
            error.text
        );
        drop(first);
        let is_none = |connections: f64| connections == 0.0;
        server
            .metric_until("tidewire_connections", "", is_none)
            .await;
    }
}

#[tokio::test]
async fn a_token_whose_key_cannot_be_fetched_may_come_back() {
    let provider = IdentityProvider::start(&[]).await;
    let server = Server::builder()
        .set("auth", &format!("jwks_url = {:?}", provider.url()))
        .set("auth", "anonymous = false")
        .start()
        .await;
    provider.set_unavailable();
    let token = Token::of("ada").sign_as(KeyPair::P256, Some("new"));
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let refused = client.request("auth", json!({"token": token})).await;
    assert_eq!(refused.error_code(), "unavailable");
    assert_closed(&mut client, 1013, Code::Unavailable).await;
}

#[tokio::test]
async fn a_secret_is_replaced_while_tokens_of_both_are_valid() {
    const NEW: &str = "the next secret of the tests, 32 bytes or more";
    let new = format!("hmac_secret = {NEW:?}");
    let previous = format!("hmac_secret_previous = {SECRET:?}");
    let before = Server::builder();
    let amid = Server::builder().set("auth", &new).set("auth", &previous);
    // As an environment variable that is empty once it is no longer needed.
    let without = "hmac_secret_previous = \"\"";
    let after = Server::builder().set("auth", &new).set("auth", without);
    let (with_earlier, with_new) = (Token::of("ada").sign(), Token::of("ada").sign_with(NEW));
    for (builder, accepted) in [
        (before, [true, false]),
        (amid, [true, true]),
        (after, [false, true]),
    ] {
        let server = builder.start().await;
        for (token, is_accepted) in [&with_earlier, &with_new].into_iter().zip(accepted) {
            let body = json!({});
            let method = "NotifyService/ListNotifications";
            let answer = server.call(method, Some(token), &body).await;
            let expected = if is_accepted { 200 } else { 401 };
            assert_eq!(answer.status, expected, "{}", answer.body);
        }
    }
}
