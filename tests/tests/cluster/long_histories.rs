//! Recovery of histories that are too long for one read, by many clients of one node.

use std::sync::Arc;

use futures::future::join_all;
use tidewire_stream::{
    ChannelName, PageLimit, Position,
    broker::{Broker as _, History, Reach},
};
use tidewire_tests::RedisServer;

use crate::node::{Node, channel, document, lose_message};

/// Publications that the namespace `orders` keeps.
const KEPT: u64 = 1_000;

/// Bytes of a publication: the history has 4 MiB.
const LENGTH: usize = 4 << 10;

/// The room of a client.
const ROOM: PageLimit = PageLimit::bytes(64 << 10);

/// Entries that a script reads with one `XRANGE`.
const STEP: u64 = 32;

/// A Redis, a node that publishes, and one whose clients recover.
struct Setting {
    redis: RedisServer,
    publisher: Arc<Node>,
    node: Arc<Node>,
    name: ChannelName,
    start: Position,
}

impl Setting {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let publisher = Arc::new(Node::start(&redis).await);
        let node = Arc::new(Node::start(&redis).await);
        let name = channel("orders:1");
        let start = node.subscribe(&name).await;
        Self {
            redis,
            publisher,
            node,
            name,
            start,
        }
    }

    fn at(&self, seq: u64) -> Position {
        Position {
            seq,
            ..self.start.clone()
        }
    }

    /// Publishes, and waits until the node has delivered it all.
    async fn publish(&self, seqs: std::ops::RangeInclusive<u64>) {
        let last = usize::try_from(*seqs.end()).unwrap();
        let seqs: Vec<_> = seqs.collect();
        for some in seqs.chunks(50) {
            // They get their seq in the order of the calls.
            let published = some.iter().map(async |seq| {
                let text = text(*seq);
                let position = self.publisher.publish(&self.name, &text).await;
                assert_eq!(position.seq, *seq);
            });
            join_all(published).await;
        }
        self.node.delivered(&self.name, last).await;
    }

    async fn recover(&self, since: &Position, limit: PageLimit) -> History {
        let recovered = self.node.broker.recover(&self.name, Some(since), limit);
        recovered.await.unwrap()
    }

    /// Recovers as a session does, part by part. Returns how often it read.
    async fn catch_up(&self, from: u64) -> usize {
        let mut since = self.at(from);
        let mut parts = 0;
        loop {
            let history = self.recover(&since, ROOM).await;
            assert_eq!(history.reach, Reach::Complete, "at {since:?}");
            assert_eq!(history.top.epoch, since.epoch);
            for one in &history.publications {
                assert_eq!((one.seq(), document(one)), (since.seq + 1, text(one.seq())));
                since.seq = one.seq();
            }
            parts += 1;
            if since.seq >= history.top.seq {
                return parts;
            }
            assert!(!history.publications.is_empty(), "at {since:?}");
        }
    }

    /// How many steps of histories were read from Redis.
    async fn steps(&self) -> u64 {
        let stats = self.redis.command(&["INFO", "commandstats"]).await;
        let mut ranges = stats.lines().filter_map(|line| {
            let calls = line.strip_prefix("cmdstat_xrange:calls=")?;
            calls.split(',').next()?.parse().ok()
        });
        ranges.next().unwrap_or(0)
    }
}

fn text(seq: u64) -> String {
    format!("[{seq},\"{}\"]", "x".repeat(LENGTH))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_at_different_positions_read_each_page_about_once() {
    let setting = Setting::start().await;
    setting.publish(1..=KEPT).await;
    let before = setting.steps().await;
    // Each begins before all earlier ones, which is the worst order. None is within a page of the end.
    let clients = (0..60).map(async |number| {
        let from = 708 - number * 12;
        setting.catch_up(from).await
    });
    let parts: usize = join_all(clients).await.iter().sum();
    let steps = setting.steps().await - before;
    assert!(parts > 1_000, "{parts} parts");
    assert!(steps <= 2 * KEPT / STEP, "{steps} steps");
    // Those that come a moment later need no read.
    let before = setting.steps().await;
    join_all((0..20).map(|number| setting.catch_up(number * 40))).await;
    let steps = setting.steps().await - before;
    assert!(steps <= KEPT / STEP / 2, "{steps} steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_cut_while_clients_recover_leaves_no_silent_hole() {
    let setting = Setting::start().await;
    setting.publish(1..=KEPT).await;
    let slow = setting.recover(&setting.at(0), ROOM).await;
    let slow = slow.publications.last().unwrap().seq();
    let fast = setting.catch_up(100).await;
    assert!(fast > 10, "{fast} parts");
    // The history has 301 to 1,300 then. The pages have those before, too.
    setting.publish(KEPT + 1..=KEPT + 300).await;
    for seq in [slow, 299] {
        let history = setting.recover(&setting.at(seq), ROOM).await;
        assert_eq!(history.reach, Reach::Lost, "{seq}");
        assert_eq!(history.top, setting.at(KEPT + 300));
    }
    let nothing = setting.recover(&setting.at(299), PageLimit::NOTHING).await;
    assert_eq!(nothing.reach, Reach::Lost);
    let nothing = setting.recover(&setting.at(300), PageLimit::NOTHING).await;
    assert_eq!(
        (nothing.reach, nothing.publications.len()),
        (Reach::Complete, 0)
    );
    join_all([300, 450, 999, 1_000, 1_299, 1_300].map(|seq| setting.catch_up(seq))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_outlives_the_epoch_of_its_channel() {
    let setting = Setting::start().await;
    setting.publish(1..=KEPT).await;
    setting.catch_up(0).await;
    let restarted = setting.publisher.broker.start_new_epoch(&setting.name);
    restarted.await.unwrap();
    let epoch = async || {
        let history = setting.recover(&setting.at(500), ROOM).await;
        (history.reach == Reach::Lost).then_some(history.top.epoch)
    };
    let epoch = tidewire_tests::eventually("another epoch", epoch).await;
    assert_ne!(epoch, setting.start.epoch);
    // As long a history again, whose publications have other texts.
    for number in 0..KEPT {
        let text = text(KEPT + number);
        let position = setting.publisher.publish(&setting.name, &text).await;
        assert_eq!(position.epoch, epoch);
    }
    for seq in [0, 500, 999] {
        let since = Position {
            epoch: epoch.clone(),
            seq,
        };
        let history = setting.recover(&since, ROOM).await;
        let first = history.publications.first().map(|one| document(one));
        assert_eq!(first, Some(text(KEPT + seq)));
        assert_eq!(
            setting.recover(&setting.at(seq), ROOM).await.reach,
            Reach::Lost
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_node_has_not_delivered_is_in_no_page() {
    let setting = Setting::start().await;
    setting.publish(1..=KEPT - 1).await;
    // Its message does not reach the node, which does not know of it.
    lose_message(&setting.redis, KEPT).await;
    // The history is longer than a page.
    let first = setting.recover(&setting.at(0), ROOM).await;
    assert_eq!(first.publications.first().map(|one| one.seq()), Some(1));
    for seq in [KEPT - 40, KEPT - 2] {
        let history = setting
            .recover(&setting.at(seq), PageLimit::bytes(1 << 20))
            .await;
        let last = history.publications.last().unwrap().seq();
        assert_eq!((last, history.top), (KEPT - 1, setting.at(KEPT - 1)));
    }
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }
}

/// Compared with what the namespace keeps: a client gets everything after its position, each once and
/// in order, unless the history has dropped the next one.
#[tokio::test(flavor = "multi_thread")]
async fn clients_recover_exactly_while_others_publish() {
    const CLIENTS: usize = 40;
    let setting = Setting::start().await;
    setting.publish(1..=KEPT).await;
    let mut numbers = Numbers(7);
    let mut clients: Vec<u64> = (0..CLIENTS).map(|_| numbers.below(KEPT)).collect();
    let (mut newest, mut lost) = (KEPT, 0);
    for _ in 0..30 {
        let more = numbers.below(40);
        if more > 0 {
            setting.publish(newest + 1..=newest + more).await;
            newest += more;
        }
        // Some are slow, and some are away for a while.
        let reading = clients.iter_mut().map(|seq| (numbers.below(3), seq));
        let read = reading.map(async |(times, seq)| {
            let mut lost = 0;
            for _ in 0..times {
                let history = setting.recover(&setting.at(*seq), ROOM).await;
                assert_eq!(history.top, setting.at(newest));
                let is_there = *seq >= newest.saturating_sub(KEPT);
                assert_eq!(
                    history.reach == Reach::Complete,
                    is_there,
                    "{seq} of {newest}"
                );
                if !is_there {
                    (*seq, lost) = (newest, lost + 1);
                    continue;
                }
                for one in &history.publications {
                    assert_eq!((one.seq(), document(one)), (*seq + 1, text(one.seq())));
                    *seq += 1;
                }
                assert!(*seq == newest || !history.publications.is_empty());
            }
            lost
        });
        lost += join_all(read).await.iter().sum::<i32>();
    }
    assert!(lost > 0, "some were away for too long");
    for seq in clients {
        if seq >= newest - KEPT {
            setting.catch_up(seq).await;
        }
    }
}
