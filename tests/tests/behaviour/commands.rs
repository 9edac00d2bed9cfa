//! Commands that wait for a node or a key set run beside the others, and keep their order where
//! it matters.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidewire_tests::{
    Client, IdentityProvider, KeyPair, Message, Server, ServerBuilder, Token, Transport,
    client::SseStream,
};
use tokio::{net::TcpListener, task::AbortHandle};

/// Transports whose commands share one connection. A command over SSE is a request of its own.
const TRANSPORTS: [Transport; 3] = [
    Transport::WebSocketJson,
    Transport::WebSocketProto,
    Transport::Grpc,
];

/// A node that accepts calls and never responds. It stops on drop.
struct SilentNode {
    url: String,
    task: AbortHandle,
}

impl Drop for SilentNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SilentNode {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                open.push(socket);
            }
        });
        Self {
            url,
            task: task.abort_handle(),
        }
    }
}

/// A server that follows a chain whose only node does not respond. Its calls have no time to time
/// out within a test.
async fn server_of(node: &SilentNode) -> Server {
    let chain = format!(
        "[[chain]]\nid = 1\nendpoints = [{:?}]\ncall_timeout = \"10m\"\n",
        node.url
    );
    Server::builder().table(&chain).start().await
}

fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

fn watch(id: &str, number: u64) -> Value {
    json!({"type": "watch", "id": id, "data": {"chain": 1, "txHash": hash(number)}})
}

/// Ids of the next `count` replies, in the order of their arrival.
async fn reply_ids(client: &mut Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend(client.next().await.id);
    }
    ids
}

#[tokio::test]
async fn a_command_that_waits_does_not_stop_the_others() {
    let node = SilentNode::start().await;
    let server = server_of(&node).await;
    for transport in TRANSPORTS {
        let mut client = Client::connect(transport, &server).await;
        client.send(&watch("slow", 1)).await;
        for number in 0..20 {
            let pong = client.request("ping", json!({"t": number})).await;
            assert_eq!(pong.expect("pong").data["t"], number);
        }
        client.subscribe("demo:a").await;
        let published = client
            .request("publish", json!({"channel": "demo:a", "data": 1}))
            .await;
        let _ = published.expect("published");
        assert_eq!(client.next_on("demo:a").await.data, 1);
        let has_waited = |message: &&Message| message.id.as_deref() == Some("slow");
        assert!(!client.unread().iter().any(has_waited), "{transport:?}");
    }
}

#[tokio::test]
async fn commands_of_one_channel_keep_their_order() {
    for transport in TRANSPORTS {
        let node = SilentNode::start().await;
        let server = server_of(&node).await;
        let mut client = Client::connect(transport, &server).await;
        let channel = format!("tx:1:{}", hash(0xab));
        client.send(&watch("watch", 0xab)).await;
        let upper_case = hash(0xab).to_uppercase().replace("0X", "0x");
        let unwatch = json!({"chain": 1, "txHash": upper_case});
        client
            .send(&json!({"type": "unwatch", "id": "unwatch", "data": unwatch}))
            .await;
        let channels = json!({"channels": [channel]});
        client
            .send(&json!({"type": "subscribe", "id": "subscribe", "data": channels}))
            .await;
        client.send(&json!({"type": "ping", "id": "ping"})).await;
        assert_eq!(reply_ids(&mut client, 1).await, ["ping"]);
        // The calls of the watch fail now.
        drop(node);
        let ids = reply_ids(&mut client, 3).await;
        assert_eq!(ids, ["watch", "unwatch", "subscribe"], "{transport:?}");
    }
}

#[tokio::test]
async fn commands_in_progress_are_bounded() {
    let node = SilentNode::start().await;
    let server = server_of(&node).await;
    for transport in TRANSPORTS {
        let mut client = Client::connect(transport, &server).await;
        for number in 0..300 {
            client.send(&watch(&number.to_string(), number)).await;
        }
        client.settle().await;
        let refused: BTreeSet<String> = client
            .unread()
            .into_iter()
            .filter(|message| message.kind == "error")
            .map(|message| {
                assert_eq!(
                    message.data["code"], "resource_exhausted",
                    "{}",
                    message.text
                );
                assert!(message.data["retryAfterMs"].as_u64().unwrap() > 0);
                message.id.clone().unwrap()
            })
            .collect();
        let expected: BTreeSet<String> = (256..300).map(|number| number.to_string()).collect();
        assert_eq!(refused, expected, "{transport:?}");
        // A command that is answered at once needs no place.
        for _ in 0..300 {
            client.settle().await;
        }
        let state = json!({"state": "active"});
        let _ = client
            .request("visibility", state)
            .await
            .expect("visibility");
    }
}

#[tokio::test]
async fn a_command_waits_for_the_room_of_one_in_progress() {
    let server = Server::start().await;
    for transport in TRANSPORTS {
        let mut client = Client::connect(transport, &server).await;
        // Each reserves more than half of an outbox for its reply, and yields to other tasks
        // before that is made.
        for part in 0..2 {
            let names = (0..400).map(|number| format!("demo:{part}-{number}"));
            let channels = json!({"channels": names.collect::<Vec<_>>()});
            let subscribe = json!({"type": "subscribe", "id": part.to_string(), "data": channels});
            client.send(&subscribe).await;
        }
        client.send(&json!({"type": "ping", "id": "ping"})).await;
        let ids: BTreeSet<_> = reply_ids(&mut client, 3).await.into_iter().collect();
        assert_eq!(
            ids,
            ["0", "1", "ping"].map(str::to_owned).into(),
            "{transport:?}"
        );
    }
}

/// Sends `frames` requests to subscribe to `channels` each, and a ping, without a wait.
async fn send_subscribes(client: &mut Client, frames: usize, channels: usize) {
    for frame in 0..frames {
        let names = (0..channels).map(|number| format!("demo:{frame}-{number}"));
        let data = json!({"channels": names.collect::<Vec<_>>()});
        let subscribe = json!({"type": "subscribe", "id": format!("s{frame}"), "data": data});
        client.send(&subscribe).await;
    }
    client.send(&json!({"type": "ping", "id": "ping"})).await;
}

/// Ids of the replies to [`send_subscribes`].
fn subscribe_ids(frames: usize) -> BTreeSet<String> {
    let ids = (0..frames).map(|frame| format!("s{frame}"));
    ids.chain(["ping".to_owned()]).collect()
}

#[tokio::test]
async fn requests_for_many_channels_are_all_answered() {
    let node = SilentNode::start().await;
    let server = server_of(&node).await;
    for transport in TRANSPORTS {
        for (frames, channels) in [(4, 100), (10, 100), (1, 400), (2, 400), (1, 1_000)] {
            let mut client = Client::connect(transport, &server).await;
            // It stays in progress all the time.
            client.send(&watch("slow", 1)).await;
            send_subscribes(&mut client, frames, channels).await;
            let ids = reply_ids(&mut client, frames + 1).await;
            let ids: BTreeSet<_> = ids.into_iter().collect();
            assert_eq!(ids, subscribe_ids(frames), "{transport:?}");
        }
    }
}

/// A provider that holds the key of a client's token back.
struct HeldKey {
    provider: IdentityProvider,
    /// Requests of the server before the client sent its token.
    requests: usize,
}

impl HeldKey {
    /// Lets the server verify the token, once it asks for the key.
    async fn release(&self) {
        self.provider.requested(self.requests + 1).await;
        self.provider.release();
    }
}

/// A server that requires a token, and a client whose `auth` waits for the key of its token.
async fn begin_auth(transport: Transport, builder: ServerBuilder) -> (Server, Client, HeldKey) {
    let provider = IdentityProvider::start(&[]).await;
    let server = builder
        .set("auth", &format!("jwks_url = {:?}", provider.url()))
        .set("auth", "anonymous = false")
        .start()
        .await;
    provider.set_keys(&[KeyPair::P256.web_key("new")]);
    provider.hold();
    let requests = provider.requests();
    let mut client = Client::connect(transport, &server).await;
    let token = Token::of("ada").sign_as(KeyPair::P256, Some("new"));
    let auth = json!({"type": "auth", "id": "auth", "data": {"token": token}});
    client.send(&auth).await;
    (server, client, HeldKey { provider, requests })
}

#[tokio::test]
async fn requests_for_many_channels_wait_for_auth() {
    for transport in TRANSPORTS {
        let (_server, mut client, key) = begin_auth(transport, Server::builder()).await;
        send_subscribes(&mut client, 9, 100).await;
        assert_eq!(reply_ids(&mut client, 1).await, ["ping"], "{transport:?}");
        key.release().await;
        let mut ids = reply_ids(&mut client, 10).await;
        assert_eq!(ids.remove(0), "auth", "{transport:?}");
        ids.push("ping".to_owned());
        let ids: BTreeSet<_> = ids.into_iter().collect();
        assert_eq!(ids, subscribe_ids(9), "{transport:?}");
    }
}

#[tokio::test]
async fn an_unsubscribe_after_auth_ends_a_subscription_of_the_token() {
    for transport in TRANSPORTS {
        let (server, mut client, key) = begin_auth(transport, Server::builder()).await;
        let channels = json!({"channels": ["user:ada"]});
        client
            .send(&json!({"type": "unsubscribe", "id": "end", "data": channels}))
            .await;
        client.settle().await;
        assert!(client.unread().is_empty(), "{:?}", client.unread());
        key.release().await;
        assert_eq!(reply_ids(&mut client, 2).await, ["auth", "end"]);
        let body = json!({"user": "ada", "data": 1});
        let token = Token::service();
        let sent = server.call("StreamService/SendToUser", Some(&token), &body);
        assert_eq!(sent.await.status, 200);
        client.settle().await;
        let is_message = |message: &&Message| message.kind == "message";
        assert!(!client.unread().iter().any(is_message), "{transport:?}");
    }
}

#[tokio::test]
async fn commands_after_auth_act_in_the_name_of_the_token() {
    for transport in TRANSPORTS {
        let rights = "publish = \"authenticated\"\naccess = \"authenticated\"";
        let builder = Server::builder().namespace("chat", rights);
        let (_server, mut client, key) = begin_auth(transport, builder).await;
        let channels = json!({"channels": ["chat:a"]});
        client
            .send(&json!({"type": "subscribe", "id": "subscribe", "data": channels}))
            .await;
        let publish = json!({"channel": "chat:a", "data": "hello"});
        client
            .send(&json!({"type": "publish", "id": "publish", "data": publish}))
            .await;
        // A ping needs no identity.
        client.settle().await;
        assert!(client.unread().is_empty(), "{:?}", client.unread());
        key.release().await;
        let reply = client.reply("auth").await.expect("authenticated");
        assert_eq!(reply.data["userId"], "ada");
        let reply = client.reply("subscribe").await.expect("subscribed");
        assert_eq!(
            reply.data["channels"][0]["error"],
            Value::Null,
            "{}",
            reply.text
        );
        let _ = client.reply("publish").await.expect("published");
        assert_eq!(client.next_on("chat:a").await.data, "hello");
    }
}

/// Channels that are resumed at the same time.
const RESUMED: usize = 60;

/// Publications on each of them.
const PUBLISHED: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_posts_resume_their_channels_completely() {
    let server = Server::builder().set("server", "threads = 4").start().await;
    let mut epoch = String::new();
    for channel in 0..RESUMED {
        for number in 1..=PUBLISHED {
            let published = server
                .publish(&format!("demo:{channel}"), json!(number))
                .await;
            published["epoch"].as_str().unwrap().clone_into(&mut epoch);
        }
    }
    for _ in 0..5 {
        let mut stream = SseStream::open(&server, "", &[]).await.unwrap();
        let welcome = stream.next_of("welcome").await.message().data;
        let (connection, key) = (&welcome["connectionId"], &welcome["postKey"]);
        let path = format!(
            "/v1/sse/{}?key={}",
            connection.as_str().unwrap(),
            key.as_str().unwrap()
        );
        let posts = (0..RESUMED).map(|channel| {
            let since = json!({"epoch": epoch, "seq": 0});
            let channels = json!([{"channel": format!("demo:{channel}"), "since": since}]);
            let body = json!({"type": "subscribe", "data": {"channels": channels}});
            let request = server.http().post(server.url(&path)).json(&body);
            server.send(request)
        });
        for answer in futures::future::join_all(posts).await {
            let result = &answer.json()["data"]["channels"][0];
            assert_eq!(result["recovered"], true, "{result}");
        }
        let mut next = vec![1; RESUMED];
        for _ in 0..RESUMED as u64 * PUBLISHED {
            let message = stream.next_of("message").await.message();
            let channel = message.channel.unwrap();
            let channel: usize = channel.strip_prefix("demo:").unwrap().parse().unwrap();
            assert_eq!(message.seq, Some(next[channel]), "demo:{channel}");
            next[channel] += 1;
        }
    }
}
