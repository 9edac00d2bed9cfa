//! Batches that reach a subscriber over the bus of a Redis Cluster, from another server than its own.

use tidewire_stream::{
    ChannelName,
    broker::{Broker as _, memory::MemoryLimits, redis::RedisAddress},
};
use tidewire_tests::{RedisCluster, RedisServer, eventually, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    node::{Delivered, Node, channel},
    redis_cluster::{MASTERS, cluster_options, node, without_gap},
    redis_cluster_losses::slot_of,
};

/// The rights that were enough before batches named their server.
const RIGHTS_OF_BEFORE: &str =
    "+@read +@write +@scripting +@pubsub +@connection +time +cluster|slots +cluster|info";

/// A connection of its own to a server.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn connect(server: &RedisServer) -> Self {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let read = Vec::new();
        Self { stream, read }
    }

    async fn send(&mut self, arguments: &[&[u8]]) {
        let mut command = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            command.extend(format!("${}\r\n", argument.len()).as_bytes());
            command.extend([argument, &b"\r\n"[..]].concat());
        }
        self.stream.write_all(&command).await.unwrap();
    }

    /// A line without its end.
    async fn line(&mut self) -> Vec<u8> {
        loop {
            let end = self.read.windows(2).position(|pair| pair == b"\r\n");
            if let Some(end) = end {
                let line = self.read[..end].to_vec();
                self.read.drain(..end + 2);
                return line;
            }
            self.fill().await;
        }
    }

    async fn fill(&mut self) {
        let reading = self.stream.read_buf(&mut self.read);
        let count = within("bytes of Redis", reading).await.unwrap();
        assert!(count > 0, "the server ended the connection");
    }

    /// A text of any bytes, with its length before it.
    async fn text(&mut self) -> Vec<u8> {
        let length = String::from_utf8(self.line().await).unwrap();
        let length: usize = length.strip_prefix('$').unwrap().parse().unwrap();
        while self.read.len() < length + 2 {
            self.fill().await;
        }
        let text = self.read[..length].to_vec();
        self.read.drain(..length + 2);
        text
    }

    /// Subscribes to a shard channel.
    async fn subscribe(&mut self, name: &str) {
        self.send(&[b"SSUBSCRIBE", name.as_bytes()]).await;
        assert_eq!(self.line().await, b"*3");
        assert_eq!(self.text().await, b"ssubscribe");
        assert_eq!(self.text().await, name.as_bytes());
        assert_eq!(self.line().await, b":1");
    }

    /// The next message on the shard channel.
    async fn message(&mut self) -> Vec<u8> {
        assert_eq!(self.line().await, b"*3");
        assert_eq!(self.text().await, b"smessage");
        self.text().await;
        self.text().await
    }
}

/// The fields of a batch's header.
fn fields(message: &[u8]) -> Vec<String> {
    let header = message.split(|byte| *byte == b'\n').next().unwrap();
    let header = std::str::from_utf8(header).unwrap();
    header.split(' ').map(str::to_owned).collect()
}

/// A batch with other fields in its header, and the same publications.
fn with_fields(message: &[u8], fields: &[String]) -> Vec<u8> {
    let end = message.iter().position(|byte| *byte == b'\n').unwrap();
    [fields.join(" ").as_bytes(), &message[end..]].concat()
}

/// A number in the statistics of a server's commands, such as `evalsha:calls`.
async fn count_of(server: &RedisServer, name: &str) -> usize {
    let (command, field) = name.split_once(':').unwrap();
    let stats = server.command(&["INFO", "commandstats"]).await;
    let prefix = format!("cmdstat_{command}:");
    let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    let mut fields = line.unwrap().split(',');
    let count = fields.find_map(|one| one.strip_prefix(field)?.strip_prefix('='));
    count.unwrap().parse().unwrap()
}

/// Channels whose master is the first one.
async fn channels_of_first(cluster: &RedisCluster, count: usize) -> Vec<ChannelName> {
    let mut names = Vec::new();
    for number in 0.. {
        if names.len() == count {
            break;
        }
        let name = channel(&format!("orders:{number}"));
        let slot = slot_of(cluster, &name).await;
        if RedisCluster::first_owner(slot, MASTERS) == 0 {
            names.push(name);
        }
    }
    names
}

/// The shard channel of a channel on which something was published.
async fn shard_channel(server: &RedisServer, name: &ChannelName) -> String {
    let suffix = format!(":meta:{}", name.as_str());
    let keys = server.command(&["KEYS", &format!("*{suffix}")]).await;
    let key = keys.lines().find(|line| line.ends_with(&suffix)).unwrap();
    key.replace(":meta:", ":0:")
}

/// Publishes once on a channel, and listens to the batch at the first server. Returns the listener and the batch.
async fn overhear(cluster: &RedisCluster, a: &Node, name: &ChannelName) -> (Wire, Vec<u8>) {
    a.publish(name, "1").await;
    let mut listener = Wire::connect(&cluster.servers[0]).await;
    let shard_channel = shard_channel(&cluster.servers[0], name).await;
    listener.subscribe(&shard_channel).await;
    a.publish(name, "2").await;
    let message = listener.message().await;
    (listener, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_a_replaced_master_that_wakes_is_not_delivered() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    cluster.add_replica(0).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let names = channels_of_first(&cluster, 2).await;
    let (name, other) = (&names[0], &names[1]);
    b.subscribe(name).await;
    let (_, message) = overhear(&cluster, &a, name).await;
    let (first, promoted) = (&cluster.servers[0], &cluster.servers[MASTERS]);
    let shard_channel = shard_channel(first, name).await;
    b.delivered(name, 2).await;
    cluster.is_replicated(0, MASTERS).await;
    // It hangs, with a publication in a socket: what the script makes of the next one.
    let mut late = Wire::connect(first).await;
    first.pause();
    let mut header = fields(&message);
    assert_eq!(header[1], "2");
    header[1] = "3".to_owned();
    header[3] = "other:1".to_owned();
    let late_message = with_fields(&message, &header);
    late.send(&[b"SPUBLISH", shard_channel.as_bytes(), &late_message])
        .await;
    eventually("subscriptions at the promoted replica", async || {
        let question = ["PUBSUB", "SHARDNUMSUB", &shard_channel];
        let count = promoted.try_command(&question).await?;
        let role = promoted.try_command(&["ROLE"]).await?;
        (role.contains("master") && count.ends_with(":1\r\n")).then_some(())
    })
    .await;
    let mut listener = Wire::connect(promoted).await;
    listener.subscribe(&shard_channel).await;
    // It was subscribed to after the first one, whose comparison is over too.
    b.subscribe(other).await;
    first.resume();
    assert_eq!(listener.message().await, late_message, "over the bus");
    // The promoted master gives the same position to another publication.
    assert_eq!(a.publish(name, "3").await.seq, 3);
    assert_eq!(a.publish(name, "4").await.seq, 4);
    let expected = [(1, "1"), (2, "2"), (3, "3"), (4, "4")];
    let expected = expected.map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(b.delivered(name, 4).await, expected);
    without_gap(&b, name);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_new_epochs_name_their_server() {
    let cluster = RedisCluster::start(MASTERS).await;
    let a = node(&cluster).await;
    let name = &channels_of_first(&cluster, 1).await[0];
    let (mut listener, message) = overhear(&cluster, &a, name).await;
    let id = cluster.id(0).await;
    assert_eq!(fields(&message)[5..], [&*id]);
    a.broker.start_new_epoch(name).await.unwrap();
    let restart = fields(&listener.message().await);
    assert_eq!(restart[1..], ["1", "0", "-", "", &*id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_names_no_server_is_delivered() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let name = &channels_of_first(&cluster, 1).await[0];
    b.subscribe(name).await;
    let (_, message) = overhear(&cluster, &a, name).await;
    b.delivered(name, 2).await;
    // As a node of an earlier release makes it. Redis does not know of it, so a comparison would not find it.
    let mut header = fields(&message);
    header[1] = "3".to_owned();
    header.truncate(5);
    let message = with_fields(&message, &header);
    let mut earlier = Wire::connect(&cluster.servers[0]).await;
    let shard_channel = shard_channel(&cluster.servers[0], name).await;
    earlier
        .send(&[b"SPUBLISH", shard_channel.as_bytes(), &message])
        .await;
    b.delivered(name, 3).await;
    without_gap(&b, name);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_batches_of_another_server_cost_few_comparisons() {
    const COUNT: usize = 2_000;
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let name = &channels_of_first(&cluster, 1).await[0];
    b.subscribe(name).await;
    let (mut listener, message) = overhear(&cluster, &a, name).await;
    b.delivered(name, 2).await;
    let mut header = fields(&message);
    header[1] = "3".to_owned();
    header[5] = cluster.id(1).await;
    let message = with_fields(&message, &header);
    let server = &cluster.servers[0];
    let shard_channel = shard_channel(server, name).await;
    let before = count_of(server, "evalsha:calls").await;
    let mut other = Wire::connect(server).await;
    for _ in 0..COUNT {
        other
            .send(&[b"SPUBLISH", shard_channel.as_bytes(), &message])
            .await;
    }
    for _ in 0..COUNT {
        listener.message().await;
    }
    // It comes after all of them.
    a.publish(name, "3").await;
    let delivered = b.delivered(name, 3).await;
    assert_eq!(delivered[2], (3, "3".to_owned()));
    without_gap(&b, name);
    let made = count_of(server, "evalsha:calls").await - before;
    assert!(made < COUNT / 2, "{made} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_to_ask_for_the_id_works_as_before() {
    let cluster = RedisCluster::start(MASTERS).await;
    let set = [
        "ACL", "SETUSER", "tidewire", "on", ">secret", "~test:*", "&test:*",
    ];
    let set: Vec<_> = set.into_iter().chain(RIGHTS_OF_BEFORE.split(' ')).collect();
    for server in &cluster.servers {
        assert_eq!(server.command(&set).await, "+OK\r\n");
    }
    let mut options = cluster_options(&cluster);
    options.address = RedisAddress::parse("redis://tidewire:secret@cluster").unwrap();
    let a = Node::with(options, MemoryLimits::default()).await.unwrap();
    let names = channels_of_first(&cluster, 1).await;
    let name = &names[0];
    a.subscribe(name).await;
    let (mut listener, message) = overhear(&cluster, &a, name).await;
    assert_eq!(fields(&message).len(), 5);
    a.broker.start_new_epoch(name).await.unwrap();
    assert_eq!(fields(&listener.message().await)[1..], ["1", "0", "-", ""]);
    for number in 0..20 {
        a.publish(name, &number.to_string()).await;
    }
    assert_eq!(a.delivered(name, 22).await.len(), 22);
    let refused = count_of(&cluster.servers[0], "cluster|myid:rejected_calls").await;
    assert!(
        refused < 20,
        "publications do not ask, and connections do: {refused}"
    );
    let gaps = a.recorder.on(name).into_iter();
    let gaps = gaps.filter(|one| matches!(one, Delivered::Newest(..)));
    assert_eq!(gaps.count(), 1, "of the new epoch");
    assert_eq!(a.fault(), None);
}
