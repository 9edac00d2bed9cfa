//! Access to operator RPCs: identities, and the listeners that serve them.

use serde_json::json;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        DisconnectRequest, ListConnectionsRequest, ListConnectionsResponse, RevokeRequest,
        SubscribeUserRequest, UnsubscribeUserRequest, admin_service_client::AdminServiceClient,
        disconnect_request, revoke_request, subscribe_user_request, unsubscribe_user_request,
    },
};
use tidewire_tests::{
    Client, Server, ServerBuilder, Token, Transport,
    client::{
        SseStream,
        grpc::{channel, request},
    },
};
use tonic::{Code, Status, transport::Channel};

use super::{ends, refused};
use crate::grpc::web;

/// A server that listens on more than loopback.
fn open_server() -> ServerBuilder {
    Server::builder().set("server", "listen = \"0.0.0.0:0\"")
}

/// Calls each RPC over gRPC for user ada, and returns the connections that each affected.
async fn call_all(channel: Channel, token: Option<&str>) -> [Result<u32, Status>; 5] {
    let mut admin = AdminServiceClient::new(channel);
    let user = || "ada".to_owned();
    let listed = ListConnectionsRequest {
        user: Some(user()),
        ..ListConnectionsRequest::default()
    };
    let subscribe = SubscribeUserRequest {
        channel: "user:lobby".to_owned(),
        target: Some(subscribe_user_request::Target::User(user())),
    };
    let unsubscribe = UnsubscribeUserRequest {
        channel: "user:lobby".to_owned(),
        target: Some(unsubscribe_user_request::Target::User(user())),
    };
    let disconnect = DisconnectRequest {
        target: Some(disconnect_request::Target::User("bob".to_owned())),
    };
    let revoke = RevokeRequest {
        target: Some(revoke_request::Target::User(user())),
        expires_at: None,
    };
    let listed = admin.list_connections(request(listed, token)).await;
    let subscribed = admin.subscribe_user(request(subscribe, token)).await;
    let unsubscribed = admin.unsubscribe_user(request(unsubscribe, token)).await;
    let disconnected = admin.disconnect(request(disconnect, token)).await;
    let revoked = admin.revoke(request(revoke, token)).await;
    [
        listed.map(|answer| u32::try_from(answer.get_ref().connections.len()).unwrap()),
        subscribed.map(|answer| answer.get_ref().connections),
        unsubscribed.map(|answer| answer.get_ref().connections),
        disconnected.map(|answer| answer.get_ref().connections),
        revoked.map(|answer| answer.get_ref().connections),
    ]
}

#[tokio::test]
async fn operators_need_the_admin_scope() {
    let server = open_server().start().await;
    let ada = Token::of("ada").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &server, Some(&ada)).await;
    let calls = [
        ("ListConnections", json!({})),
        (
            "SubscribeUser",
            json!({"user": "ada", "channel": "prices:A-B"}),
        ),
        (
            "UnsubscribeUser",
            json!({"user": "ada", "channel": "user:ada"}),
        ),
        ("Disconnect", json!({"user": "ada"})),
        ("Revoke", json!({"user": "ada"})),
    ];
    for token in [None, Some(ada.as_str()), Some(&Token::service())] {
        for (method, body) in &calls {
            let method = format!("AdminService/{method}");
            assert_eq!(
                refused(&server, &method, token, body).await,
                "permission_denied",
                "{method}"
            );
        }
    }
    for token in [None, Some(ada.as_str())] {
        for result in call_all(channel(&server).await, token).await {
            assert_eq!(result.unwrap_err().code(), Code::PermissionDenied);
        }
    }
    client.settle().await;
    assert!(client.unread().is_empty(), "{:?}", client.unread());

    let operator = Token::of("operator").scope("admin").sign();
    let answer = server
        .call(
            "AdminService/Disconnect",
            Some(&operator),
            &json!({"user": "ada"}),
        )
        .await;
    assert_eq!(answer.json(), json!({"connections": 1}));
    ends(&mut client, 4503, "permission_denied").await;
}

#[tokio::test]
async fn every_call_is_answered_over_grpc() {
    let server = open_server().start().await;
    let [ada, bob] = ["ada", "bob"].map(|user| Token::of(user).sign());
    let mut first = Client::connect_as(Transport::WebSocketProto, &server, Some(&ada)).await;
    let mut second = Client::connect_as(Transport::Grpc, &server, Some(&ada)).await;
    let mut third = Client::connect_as(Transport::Sse, &server, Some(&bob)).await;
    let operator = Token::of("operator").scope("admin").sign();
    let answers = call_all(channel(&server).await, Some(&operator)).await;
    let counts = answers.map(Result::unwrap);
    assert_eq!(counts, [2, 2, 2, 1, 2]);
    for client in [&mut first, &mut second] {
        let _ = client.next_of("subscribed").await;
        let _ = client.next_of("unsubscribed").await;
        ends(client, 4504, "unauthenticated").await;
    }
    ends(&mut third, 4503, "permission_denied").await;
}

#[tokio::test]
async fn browsers_operate_over_grpc_web() {
    let server = Server::start().await;
    let client = Client::connect(Transport::WebSocketJson, &server).await;
    let answer = web(&server, "/tidewire.v1.AdminService/ListConnections", &[]).await;
    assert_eq!(answer.status, Some(0));
    let listed = ListConnectionsResponse::decode(answer.messages[0].clone()).unwrap();
    assert_eq!(
        client.welcome().data["connectionId"],
        listed.connections[0].connection_id.as_str()
    );
}

/// Calls that only operators may make, and one that the machine's user may make.
fn guarded_calls() -> [(&'static str, serde_json::Value); 6] {
    [
        ("AdminService/ListConnections", json!({})),
        ("AdminService/Disconnect", json!({"user": "ada"})),
        ("AdminService/Revoke", json!({"jti": "none"})),
        (
            "PriceService/AddSource",
            json!({"kind": "kraken", "url": "ws://127.0.0.1:1"}),
        ),
        ("PriceService/RemoveSource", json!({"name": "kraken"})),
        (
            "StreamService/Publish",
            json!({"channel": "demo:a", "data": 1}),
        ),
    ]
}

/// Makes the guarded calls and reads `/metrics` with these headers. Returns the statuses.
async fn statuses(server: &Server, token: Option<&str>, headers: &[(&str, &str)]) -> Vec<u16> {
    let mut requests = vec![server.http().get(server.url("/metrics"))];
    for (method, body) in guarded_calls() {
        let url = server.url(&format!("/v1/rpc/{method}"));
        requests.push(server.http().post(url).json(&body));
    }
    let mut statuses = Vec::new();
    for mut request in requests {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        statuses.push(server.send(request).await.status);
    }
    statuses
}

#[tokio::test]
async fn the_refusal_of_a_source_names_the_scopes_that_suffice() {
    let server = loopback_server().start().await;
    let add = async |token: Token| {
        let request = server
            .http()
            .post(server.url("/v1/rpc/PriceService/AddSource"))
            .json(&json!({"kind": "kraken", "url": "ws://127.0.0.1:1"}))
            .header("x-forwarded-for", "203.0.113.7")
            .bearer_auth(token.sign());
        server.send(request).await
    };
    let refused = add(Token::of("ada")).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert!(
        refused.body.contains("`service` or `admin`"),
        "{}",
        refused.body
    );
    let added = add(Token::of("billing").scope("service")).await;
    assert_eq!(added.status, 200, "{}", added.body);
}

/// A server on loopback that a price source can be added to.
fn loopback_server() -> ServerBuilder {
    Server::builder()
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("binance", "binance", "ws://127.0.0.1:1")
}

#[tokio::test]
async fn the_user_of_the_machine_needs_no_token() {
    for anonymous in ["true", "false"] {
        let server = loopback_server()
            .set("auth", &format!("anonymous = {anonymous}"))
            .start()
            .await;
        let publish = if anonymous == "true" { 200 } else { 401 };
        let expected = [200, 200, 200, 200, 200, 200, publish];
        assert_eq!(statuses(&server, None, &[]).await, expected);
        let port = server.address().port();
        for host in [format!("localhost:{port}"), format!("[::1]:{port}")] {
            let headers = [("host", host.as_str()), ("origin", "http://localhost:3000")];
            assert_eq!(statuses(&server, None, &headers).await, expected, "{host}");
        }
    }
    let server = Server::start().await;
    for transport in Transport::ALL {
        let mut client = Client::connect(transport, &server).await;
        let publish = json!({"channel": "demo:a", "data": 1});
        let _ = client.request("publish", publish).await.expect("published");
    }
}

#[tokio::test]
async fn a_request_that_may_come_from_elsewhere_needs_a_token() {
    let app = "https://app.example.com";
    let server = loopback_server()
        .set("server", &format!("allowed_origins = [{app:?}]"))
        .start()
        .await;
    let operator = Token::of("operator").scope("admin").sign();
    // Rebinding makes the origin of a page the server's own.
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    let elsewhere: [&[(&str, &str)]; 7] = [
        &rebound,
        &[("host", "evil.example")],
        &[
            ("host", "api.example.com"),
            ("x-forwarded-for", "203.0.113.9"),
        ],
        &[("x-forwarded-proto", "https")],
        &[("forwarded", "for=203.0.113.9")],
        &[("x-real-ip", "203.0.113.9")],
        &[("origin", app)],
    ];
    for headers in elsewhere {
        assert_eq!(
            statuses(&server, None, headers).await,
            [403; 7],
            "{headers:?}"
        );
        assert_eq!(
            statuses(&server, Some(&operator), headers).await,
            [200; 7],
            "{headers:?}"
        );
    }
    for trusted in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:127.0.0.0/104",
        "::ffff:0:0/96",
    ] {
        let trusting = loopback_server()
            .set("server", &format!("trusted_proxies = [{trusted:?}]"))
            .start()
            .await;
        assert_eq!(statuses(&trusting, None, &[]).await, [403; 7], "{trusted}");
        let results = call_all(channel(&trusting).await, None).await;
        for result in results {
            assert_eq!(result.unwrap_err().code(), Code::PermissionDenied);
        }
    }
}

#[tokio::test]
async fn the_log_names_an_operator_without_a_token_by_its_address() {
    let server = loopback_server().start().await;
    let revocation = json!({"jti": "t"});
    for (token, name) in [
        (None, "operator=\"127.0.0.1 without a token\""),
        (
            Some(Token::of("grace").scope("admin").sign()),
            "operator=\"grace\"",
        ),
    ] {
        let answer = server
            .call("AdminService/Revoke", token.as_deref(), &revocation)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let line = server.log_line(name).await;
        assert!(line.contains("revoked"), "{line}");
    }
}

#[tokio::test]
async fn a_session_through_a_proxy_does_not_publish_without_a_token() {
    let server = Server::start().await;
    let headers = [("x-forwarded-for", "203.0.113.9")];
    let mut stream = SseStream::open(&server, "?channels=demo:a", &headers)
        .await
        .unwrap();
    let welcome = stream.next().await.unwrap().message().expect("welcome");
    let [connection, key] = ["connectionId", "postKey"].map(|key| welcome.data[key].as_str());
    let (connection, key) = (connection.unwrap(), key.unwrap());
    let command = async |command: serde_json::Value| {
        let url = server.url(&format!("/v1/sse/{connection}?key={key}"));
        // The session counts, wherever its commands come from.
        server.send(server.http().post(url).json(&command)).await
    };
    let publish = json!({"type": "publish", "data": {"channel": "demo:a", "data": 1}});
    let refused = command(publish.clone()).await.json();
    assert_eq!(refused["data"]["code"], "permission_denied", "{refused}");
    let token = Token::of("ada").sign();
    let _ = command(json!({"type": "auth", "data": {"token": token}})).await;
    let published = command(publish).await.json();
    assert_eq!(published["type"], "published", "{published}");
}

#[tokio::test]
async fn a_foreign_page_is_refused_on_every_path() {
    let server = Server::start().await;
    let grpc_web = "application/grpc-web+proto";
    for (path, kind) in [
        ("/tidewire.v1.AdminService/ListConnections", grpc_web),
        ("/tidewire.v1.StreamService/Subscribe", grpc_web),
        ("/grpc.health.v1.Health/Check", grpc_web),
        ("/v1/rpc/PriceService/ListSources", "text/plain"),
        ("/v1/sse/none", "text/plain"),
    ] {
        let request = server.http().post(server.url(path));
        let request = request
            .header("origin", "http://evil.example")
            .header("content-type", kind)
            .body(vec![0; 5]);
        let answer = server.send(request).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        assert_eq!(answer.json()["code"], "permission_denied");
    }
    for path in ["/metrics", "/v1/sse", "/v1/ws", "/", "/healthz"] {
        let request = server.http().get(server.url(path));
        let request = request.header("origin", "http://evil.example");
        assert_eq!(server.send(request).await.status, 403, "{path}");
    }
}
