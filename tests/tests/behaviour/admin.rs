//! Operator RPCs on live connections, over gRPC and as JSON.

use serde_json::{Value, json};
use tidewire_proto::v1::{
    DisconnectRequest, GetPresenceRequest, ListConnectionsRequest, RevokeRequest,
    admin_service_client::AdminServiceClient, disconnect_request, revoke_request,
    stream_service_client::StreamServiceClient,
};
use tidewire_tests::{
    Client, Close, Refusal, Server, Token, Transport,
    client::grpc::{channel, request},
    eventually,
};
use tonic::Code;

mod access;

on_every_transport!(
    an_operator_closes_a_connection,
    a_user_is_subscribed_and_unsubscribed,
    a_token_is_revoked,
    a_user_is_revoked,
    a_token_sent_after_connecting_is_revoked_too,
    a_server_side_subscription_keeps_the_limits,
);

/// Calls an RPC of `AdminService` that must succeed.
async fn call(server: &Server, method: &str, body: Value) -> Value {
    let answer = server
        .call(&format!("AdminService/{method}"), None, &body)
        .await;
    assert_eq!(answer.status, 200, "{method} {body}: {}", answer.body);
    answer.json()
}

/// Calls an RPC that must be refused, and returns the error code.
async fn refused(server: &Server, method: &str, token: Option<&str>, body: &Value) -> String {
    let answer = server.call(method, token, body).await;
    assert_ne!(answer.status, 200, "{method} {body}: {}", answer.body);
    answer.json()["code"].as_str().unwrap().to_owned()
}

fn id(client: &Client) -> String {
    let id = client.welcome().data["connectionId"].as_str();
    id.unwrap().to_owned()
}

/// Expects an error message, then a close with this code.
async fn ends(client: &mut Client, code: u16, error: &str) {
    let (last, close) = client.drain().await;
    assert_eq!(last.last().expect("an error message").error_code(), error);
    let status = match code {
        4503 => Code::PermissionDenied,
        _ => Code::Unauthenticated,
    };
    match close {
        Close::WebSocket { code: real, .. } => assert_eq!(real, code),
        Close::Sse => {}
        Close::Grpc { code, .. } => assert_eq!(code, status),
        Close::Broken(reason) => panic!("{reason}"),
    }
}

async fn an_operator_closes_a_connection(transport: Transport) {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let mut first = Client::connect_as(transport, &server, Some(&ada)).await;
    let mut second = Client::connect_as(transport, &server, Some(&ada)).await;
    first.subscribe("demo:a").await;
    let one = json!({"connectionId": id(&first)});
    let answer = call(&server, "Disconnect", one).await;
    assert_eq!(answer["connections"], 1);
    ends(&mut first, 4503, "permission_denied").await;
    // The user's other connections stay, and so does the token.
    second.settle().await;
    let nobody = json!({"connectionId": "0123"});
    let method = "AdminService/Disconnect";
    assert_eq!(refused(&server, method, None, &nobody).await, "not_found");
    assert_eq!(
        call(&server, "Disconnect", json!({"user": "bob"})).await["connections"],
        0
    );
    Client::connect_as(transport, &server, Some(&ada))
        .await
        .settle()
        .await;
}

#[tokio::test]
async fn a_user_is_disconnected_on_every_transport() {
    let server = Server::start().await;
    let (ada, bob) = (Token::of("ada").sign(), Token::of("bob").sign());
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        clients.push(Client::connect_as(transport, &server, Some(&ada)).await);
        // This connection authenticates after connecting.
        let mut later = Client::connect(transport, &server).await;
        let auth = later.request("auth", json!({"token": ada})).await;
        let _ = auth.expect("authenticated");
        clients.push(later);
    }
    let mut other = Client::connect_as(Transport::WebSocketJson, &server, Some(&bob)).await;
    let target = disconnect_request::Target::User("ada".to_owned());
    let answer = AdminServiceClient::new(channel(&server).await)
        .disconnect(request(
            DisconnectRequest {
                target: Some(target),
            },
            None,
        ))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().connections, 8);
    for client in &mut clients {
        ends(client, 4503, "permission_denied").await;
    }
    other.settle().await;
}

async fn a_user_is_subscribed_and_unsubscribed(transport: Transport) {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let mut first = Client::connect_as(transport, &server, Some(&ada)).await;
    let mut second = Client::connect_as(transport, &server, Some(&ada)).await;
    server.publish("demo:a", json!(1)).await;
    // An existing subscription gets no message.
    second.subscribe("demo:a").await;
    let wanted = json!({"user": "ada", "channel": "demo:a"});
    let answer = call(&server, "SubscribeUser", wanted.clone()).await;
    assert_eq!(answer["connections"], 2);
    server.publish("demo:a", json!(2)).await;
    let told = first.next().await.expect("subscribed");
    assert_eq!(told.id, None);
    let result = &told.data["channels"][0];
    assert_eq!(
        (&result["channel"], &result["seq"], &result["recovered"]),
        (&json!("demo:a"), &json!(1), &json!(false))
    );
    for client in [&mut first, &mut second] {
        assert_eq!(client.take("demo:a", 1).await, [(2, json!(2))]);
    }

    let answer = call(&server, "UnsubscribeUser", wanted).await;
    assert_eq!(answer["connections"], 2);
    server.publish("demo:a", json!(3)).await;
    for client in [&mut first, &mut second] {
        let told = client.next().await.expect("unsubscribed");
        assert_eq!(
            (told.id, told.data),
            (
                None,
                json!({"channels": ["demo:a"], "reason": "an operator ended the subscription"})
            )
        );
        // The user's next message comes from another channel: nothing more came from this one.
        client.subscribe("demo:b").await;
    }
    server.publish("demo:b", json!("b")).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.next().await.channel.as_deref(), Some("demo:b"));
    }

    // One connection only. The channel is a latest channel, which starts with its value.
    let one = json!({"connectionId": id(&first), "channel": "market:overview"});
    assert_eq!(
        call(&server, "SubscribeUser", one.clone()).await["connections"],
        1
    );
    assert_eq!(first.next().await.kind, "subscribed");
    assert_eq!(
        call(&server, "UnsubscribeUser", one.clone()).await["connections"],
        1
    );
    let _ = first.next_of("unsubscribed").await;
    assert_eq!(
        call(&server, "UnsubscribeUser", one).await["connections"],
        0
    );
}

#[tokio::test]
async fn unknown_targets_are_refused() {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &server, Some(&ada)).await;
    let cases = [
        (json!({"user": "ada", "channel": "nowhere:a"}), "not_found"),
        (
            json!({"user": "ada", "channel": "no name"}),
            "invalid_argument",
        ),
        (json!({"user": "ada"}), "invalid_argument"),
        (json!({"channel": "demo:a"}), "invalid_argument"),
        (
            json!({"connectionId": "0123", "channel": "demo:a"}),
            "not_found",
        ),
    ];
    for (body, code) in &cases {
        let method = "AdminService/SubscribeUser";
        assert_eq!(refused(&server, method, None, body).await, *code, "{body}");
    }
    for method in ["Disconnect", "Revoke", "UnsubscribeUser"] {
        let method = format!("AdminService/{method}");
        assert_eq!(
            refused(&server, &method, None, &json!({})).await,
            "invalid_argument"
        );
    }
    for limit in [0, 1_001] {
        let body = json!({"limit": limit});
        let method = "AdminService/ListConnections";
        assert_eq!(
            refused(&server, method, None, &body).await,
            "invalid_argument"
        );
    }
    client.settle().await;
    assert!(client.unread().is_empty(), "{:?}", client.unread());
}

async fn a_server_side_subscription_keeps_the_limits(transport: Transport) {
    let server = Server::builder()
        .set("limits", "channels_per_connection = 2")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    let mut full = Client::connect_as(transport, &server, Some(&ada)).await;
    full.subscribe("demo:a").await;
    let wanted = json!({"user": "ada", "channel": "demo:b"});
    let method = "AdminService/SubscribeUser";
    assert_eq!(
        refused(&server, method, None, &wanted).await,
        "resource_exhausted"
    );
    // A connection below its limit is subscribed.
    let mut roomy = Client::connect_as(transport, &server, Some(&ada)).await;
    assert_eq!(
        call(&server, "SubscribeUser", wanted).await["connections"],
        1
    );
    let _ = roomy.next().await.expect("subscribed");
}

async fn a_token_is_revoked(transport: Transport) {
    let server = Server::start().await;
    let stolen = Token::of("ada").id("stolen").sign();
    let own = Token::of("ada").id("own").sign();
    let mut thief = Client::connect_as(transport, &server, Some(&stolen)).await;
    let mut owner = Client::connect_as(transport, &server, Some(&own)).await;
    let answer = call(&server, "Revoke", json!({"jti": "stolen"})).await;
    assert_eq!(answer["connections"], 1);
    ends(&mut thief, 4504, "unauthenticated").await;
    match Client::open(transport, &server, Some(&stolen)).await {
        Err(Refusal::Http(status, _)) => assert_eq!(status, 401),
        Err(Refusal::Grpc(code, _)) => assert_eq!(code, Code::Unauthenticated),
        Err(Refusal::Unreachable(reason)) => panic!("no answer: {reason}"),
        Ok(_) => panic!("a revoked token is accepted"),
    }
    owner.settle().await;
    Client::connect_as(transport, &server, Some(&own))
        .await
        .settle()
        .await;
    // Revoking again changes nothing.
    let again = call(&server, "Revoke", json!({"jti": "stolen"})).await;
    assert_eq!(again["connections"], 0);
}

/// An issue time after all revocations of these tests, in seconds since 1970.
const LATER: i64 = 4_000_000_000;

async fn a_user_is_revoked(transport: Transport) {
    let server = Server::start().await;
    let old = Token::of("ada").sign();
    let fresh = Token::of("ada").id("fresh").claim("iat", LATER).sign();
    let mut first = Client::connect_as(transport, &server, Some(&old)).await;
    let mut second = Client::connect_as(transport, &server, Some(&old)).await;
    let mut stays = Client::connect_as(transport, &server, Some(&fresh)).await;
    let target = revoke_request::Target::User("ada".to_owned());
    let answer = AdminServiceClient::new(channel(&server).await)
        .revoke(RevokeRequest {
            target: Some(target),
            expires_at: None,
        })
        .await
        .unwrap();
    assert_eq!(answer.into_inner().connections, 2);
    ends(&mut first, 4504, "unauthenticated").await;
    ends(&mut second, 4504, "unauthenticated").await;
    assert!(
        Client::open(transport, &server, Some(&old)).await.is_err(),
        "a revoked token is accepted"
    );
    stays.settle().await;
}

#[tokio::test]
async fn a_revocation_that_ends_in_the_past_is_refused() {
    let server = Server::start().await;
    let token = Token::of("ada").id("stolen").sign();
    // The `exp` of a token has seconds.
    for expires_at in [0, 1_795_933_317] {
        let body = json!({"jti": "stolen", "expiresAt": expires_at});
        let answer = server.call("AdminService/Revoke", None, &body).await;
        assert_eq!(answer.json()["code"], "invalid_argument", "{}", answer.body);
        assert!(answer.body.contains("milliseconds"), "{}", answer.body);
    }
    Client::connect_as(Transport::WebSocketJson, &server, Some(&token)).await;
}

async fn a_token_sent_after_connecting_is_revoked_too(transport: Transport) {
    let server = Server::start().await;
    let [one, two] = ["one", "two"].map(|id| Token::of("ada").id(id).sign());
    let mut client = Client::connect(transport, &server).await;
    for token in [&one, &two] {
        let auth = client.request("auth", json!({"token": token})).await;
        let _ = auth.expect("authenticated");
    }
    // The connection holds the second token by now.
    let revoked = call(&server, "Revoke", json!({"jti": "one"})).await;
    assert_eq!(revoked["connections"], 0);
    client.settle().await;
    let revoked = call(&server, "Revoke", json!({"jti": "two"})).await;
    assert_eq!(revoked["connections"], 1);
    ends(&mut client, 4504, "unauthenticated").await;
}

#[tokio::test]
async fn connections_are_listed() {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        clients.push(Client::connect_as(transport, &server, Some(&ada)).await);
        clients.push(Client::connect(transport, &server).await);
    }
    clients[1].subscribe("demo:a").await;
    clients[2].subscribe("demo:a").await;
    let mut ids: Vec<_> = clients.iter().map(id).collect();
    ids.sort();
    let listed = |answer: &Value| -> Vec<String> {
        let connections = answer["connections"].as_array().unwrap();
        let ids = connections.iter().map(|one| one["connectionId"].as_str());
        ids.map(|id| id.unwrap().to_owned()).collect()
    };

    let all = call(&server, "ListConnections", json!({})).await;
    assert_eq!(listed(&all), ids);
    assert_eq!(all["next"], Value::Null);
    let of_first = all["connections"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["connectionId"] == id(&clients[2]).as_str())
        .unwrap();
    assert_eq!(of_first["userId"], "ada");
    assert_eq!(of_first["transport"], "websocket");
    assert_eq!(of_first["address"], "127.0.0.1");
    assert_eq!(of_first["subscriptions"], 2);
    assert!(of_first["connectedAt"].as_i64().unwrap() > 1_700_000_000_000);

    // Paging returns every connection once.
    let mut paged = Vec::new();
    let mut asked = json!({"limit": 3});
    loop {
        let page = call(&server, "ListConnections", asked.clone()).await;
        paged.extend(listed(&page));
        if page["next"].is_null() {
            break;
        }
        assert_eq!(listed(&page).len(), 3);
        asked["after"] = page["next"].clone();
    }
    assert_eq!(paged, ids);

    let mut on_channel = vec![id(&clients[1]), id(&clients[2])];
    on_channel.sort();
    let filtered = call(&server, "ListConnections", json!({"channel": "demo:a"})).await;
    assert_eq!(listed(&filtered), on_channel);
    let first = json!({"channel": "demo:a", "limit": 1});
    let filtered = call(&server, "ListConnections", first).await;
    assert_eq!(listed(&filtered), on_channel[..1]);
    assert_eq!(filtered["next"], on_channel[0].as_str());
    let both = json!({"channel": "demo:a", "user": "ada"});
    let filtered = call(&server, "ListConnections", both).await;
    assert_eq!(listed(&filtered), [id(&clients[2])]);
    let mut admin = AdminServiceClient::new(channel(&server).await);
    let of_ada = ListConnectionsRequest {
        user: Some("ada".to_owned()),
        ..ListConnectionsRequest::default()
    };
    let listed = admin.list_connections(of_ada).await.unwrap().into_inner();
    let mut transports: Vec<_> = listed
        .connections
        .iter()
        .map(|one| one.transport.as_str())
        .collect();
    transports.sort_unstable();
    assert_eq!(transports, ["grpc", "sse", "websocket", "websocket"]);
}

#[tokio::test]
async fn presence_needs_read_permission() {
    let server = Server::builder()
        .namespace("vault", "access = \"owner\"")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        let mut client = Client::connect_as(transport, &server, Some(&ada)).await;
        client.subscribe("demo:a").await;
        clients.push(client);
    }
    let mut anonymous = Client::connect(Transport::Sse, &server).await;
    anonymous.subscribe("demo:a").await;
    let presence = async |token: Option<&str>, channel: &str| {
        server
            .call(
                "StreamService/GetPresence",
                token,
                &json!({"channel": channel}),
            )
            .await
    };
    let answer = presence(None, "demo:a").await;
    assert_eq!(
        answer.json(),
        json!({"channel": "demo:a", "connections": 5, "users": ["ada"]})
    );
    let _ = anonymous
        .request("unsubscribe", json!({"channels": ["demo:a"]}))
        .await;
    let asked = GetPresenceRequest {
        channel: "demo:a".to_owned(),
    };
    let answer = StreamServiceClient::new(channel(&server).await)
        .get_presence(asked)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.connections, answer.users),
        (4, vec!["ada".to_owned()])
    );
    assert_eq!(presence(None, "demo:nobody").await.json()["connections"], 0);
    assert_eq!(presence(None, "vault:ada").await.status, 403);
    assert_eq!(presence(Some(&ada), "vault:ada").await.status, 200);
    assert_eq!(presence(None, "nowhere:a").await.status, 404);
}

#[tokio::test]
async fn the_figures_of_the_last_hour_are_read() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("demo:a").await;
    let method = "AdminService/GetServerSeries";
    let samples = eventually("a sample with a delivery", async || {
        server.publish("demo:a", json!(1)).await;
        let answer = server.call(method, None, &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let series = answer.json();
        assert_eq!(series["stepMs"], 10_000);
        let samples = series["samples"].as_array().unwrap().clone();
        samples
            .last()
            .is_some_and(|last| last["deliveryP99Ms"].is_number())
            .then_some(samples)
    })
    .await;
    let last = samples.last().unwrap();
    assert_eq!(
        (&last["clients"], &last["venues"], &last["chains"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert!(last["messagesPerSecond"].as_f64().unwrap() > 0.0, "{last}");
}
