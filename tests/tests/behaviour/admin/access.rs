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
    client::grpc::{channel, request},
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
