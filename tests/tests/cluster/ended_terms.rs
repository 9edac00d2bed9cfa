//! Servers on a shared store whose term ends while something is under way.

use serde_json::json;
use tidewire_tests::{RedisServer, Server, Token, eventually, within};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    servers::server,
    shared_store::{inbox, notify},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A server with the store of this Redis, and a webhook on this port.
async fn start(redis: &RedisServer, port: u16) -> Server {
    let builder = server(redis).set("store", "kind = \"redis\"");
    let webhook = format!(
        "[[delivery.webhook]]\nname = \"ops\"\nurl = \"http://127.0.0.1:{port}/hook\"\n\
         allow_private = true\nsecrets = [{SECRET:?}]\n"
    );
    builder.table(&webhook).start().await
}

/// Waits for a request to a webhook, which is not answered as long as what is returned exists.
async fn hanging(listener: &TcpListener) -> TcpStream {
    let accepted = within("a request to the webhook", listener.accept()).await;
    accepted.expect("a connection").0
}

/// How many messages were sent on channels of nodes.
async fn messages(redis: &RedisServer) -> u64 {
    let statistics = redis.command(&["INFO", "commandstats"]).await;
    let calls = statistics.split("cmdstat_spublish:calls=").nth(1);
    let calls = calls.and_then(|rest| rest.split(',').next());
    calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

async fn is_stored(server: &Server, title: &str) -> Option<()> {
    (notify(server, "ann", title).await.status == 200).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_under_way_holds_up_neither_the_next_term_nor_forwarding() {
    let redis = RedisServer::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let a = start(&redis, port).await;
    a.metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let mut b = start(&redis, port).await;
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    let _attempt = hanging(&listener).await;
    a.pause();
    eventually("another server takes over", async || inbox(&b, "ann").await).await;
    let _attempt_of_b = hanging(&listener).await;
    a.resume();
    a.log_line("notifications end with the term").await;
    eventually("requests go to the owner", async || {
        is_stored(&a, "2").await
    })
    .await;
    b.kill().await;
    eventually("it owns the store again", async || is_stored(&a, "3").await).await;
    // The attempt is made again.
    hanging(&listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_not_sent_to_the_next_owner_once_its_token_is_revoked() {
    let redis = RedisServer::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let a = start(&redis, port).await;
    a.metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let b = start(&redis, port).await;
    eventually("the second server knows the owner", async || {
        inbox(&b, "probe").await
    })
    .await;
    let stolen = Token::of("stolen").id("stolen").scope("service").sign();
    let notification = json!({"type": "system_announcement", "title": "stolen"});
    let body = json!({"user": "ann", "idempotencyKey": "1", "notification": notification});
    a.pause();
    let before = messages(&redis).await;
    let asking = b.call("NotifyService/Notify", Some(&stolen), &body);
    let revoking = async {
        let admin = Token::of("root").scope("admin").sign();
        let body = json!({"jti": "stolen"});
        eventually("the request is under way", async || {
            (messages(&redis).await > before).then_some(())
        })
        .await;
        b.call("AdminService/Revoke", Some(&admin), &body).await
    };
    let (asked, revoked) = tokio::join!(asking, revoking);
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    assert_eq!(asked.status, 401, "{}", asked.body);
    let listed = eventually("the next owner", async || inbox(&b, "ann").await).await;
    assert_eq!(listed, (vec![], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_cannot_open_notifications_is_degraded() {
    let redis = RedisServer::start().await;
    // Not a hash: the store fails each time.
    let key = "test:{store}:values:notification.meta";
    redis.command(&["SET", key, "?"]).await;
    let builder = server(&redis).set("store", "kind = \"redis\"");
    let server = builder.start().await;
    server
        .metric_until("tidewire_part_degraded", "shared store", |value| {
            value > 0.0
        })
        .await;
    redis.command(&["DEL", key]).await;
    eventually("the store is served", async || {
        is_stored(&server, "1").await
    })
    .await;
    server
        .metric_until("tidewire_part_degraded", "shared store", |value| {
            value < 1.0
        })
        .await;
}
