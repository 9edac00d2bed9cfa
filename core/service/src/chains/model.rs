//! Tests of the book against the node interest of owners, over a network that loses and repeats.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{Caller, ChannelName, Identity, StreamError};
use tokio::time::Instant;

use super::{
    book::{InterestBook, NextStep, Verdict},
    nodes::{LEASE, NodeInterest, UpdateStep},
    wire::{FollowRefusal, Follower, InterestAnswer, InterestUpdate},
};

/// Channels whose number divides by this are refused.
const REFUSED: usize = 7;

fn channel(number: usize) -> ChannelName {
    let kind = ["tx:1", "wallet", "events:1"][number % 3];
    ChannelName::parse(&format!("{kind}:{number}")).unwrap()
}

fn number_of(channel: &str) -> usize {
    channel.rsplit(':').next().unwrap().parse().unwrap()
}

fn follower(channel: &ChannelName) -> Follower {
    let caller = Caller::from(Identity::Anonymous);
    Follower::new(channel.as_str().to_owned(), &caller, None)
}

/// The owner of a chain.
#[derive(Default)]
struct Owner(NodeInterest);

impl Owner {
    fn receive(&self, update: &InterestUpdate, now: Instant) -> Option<InterestAnswer> {
        match self.0.begin(update, now) {
            UpdateStep::Apply => {}
            UpdateStep::Known(answer) => return Some(answer),
            UpdateStep::OutOfStep => return Some(InterestAnswer::default()),
            UpdateStep::Busy => return None,
        }
        let mut answer = InterestAnswer {
            is_in_step: true,
            ..InterestAnswer::default()
        };
        let removed = update.removed.iter().map(|name| named(name));
        let mut added = Vec::new();
        for (index, follower) in update.added.iter().enumerate() {
            if number_of(&follower.channel).is_multiple_of(REFUSED) {
                let error = StreamError::new(ErrorCode::NotFound, "refused");
                answer.refusals.push(FollowRefusal::new(index, &error));
            } else {
                added.push(named(&follower.channel));
            }
        }
        let removed: Vec<_> = removed.collect();
        self.0.finish(update, &removed, added, answer.clone(), now);
        Some(answer)
    }
}

fn named(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A node, and the subscriptions that wait.
struct Node {
    name: String,
    book: InterestBook,
    waiting: Vec<(usize, Verdict)>,
    /// Channels with a subscriber.
    followed: HashSet<ChannelName>,
}

impl Node {
    fn new(number: usize) -> Self {
        Self {
            name: format!("{number:08x}"),
            book: InterestBook::default(),
            waiting: Vec::new(),
            followed: HashSet::new(),
        }
    }

    fn subscribe(&mut self, number: usize) {
        let channel = channel(number);
        match self.book.add(&channel, follower(&channel)).unwrap() {
            Some(verdict) => self.waiting.push((number, verdict)),
            None => drop(self.followed.insert(channel)),
        }
    }

    fn leave(&mut self, number: usize) {
        let channel = channel(number);
        if self.followed.remove(&channel) {
            self.book.remove(&channel);
        }
    }

    /// Hears the verdicts that are there.
    fn hear(&mut self) {
        let followed = &mut self.followed;
        self.waiting
            .retain_mut(|(number, verdict)| match verdict.try_recv() {
                Ok(Ok(())) => {
                    assert!(!number.is_multiple_of(REFUSED));
                    followed.insert(channel(*number));
                    false
                }
                Ok(Err(error)) => {
                    assert!(number.is_multiple_of(REFUSED));
                    assert_eq!(error.message(), "refused");
                    false
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => true,
                Err(error) => panic!("{error}"),
            });
    }

    fn take(&mut self, answer: Option<InterestAnswer>, now: Instant) {
        if let Some(answer) = answer {
            let lost = self.book.take_answer(answer, now);
            assert!(lost.is_empty(), "{lost:?}");
        }
        self.hear();
    }
}

#[derive(Debug, Clone)]
enum Event {
    Subscribe(usize, usize),
    Leave(usize, usize),
    Exchange(usize),
    LoseUpdate(usize),
    LoseAnswer(usize),
    Repeat(usize),
    Kill(usize),
    TakeOver,
    Pass(u64),
}

const NODES: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    prop_oneof![
        6 => (node.clone(), 0..30_usize).prop_map(|(node, number)| Event::Subscribe(node, number)),
        3 => (node.clone(), 0..30_usize).prop_map(|(node, number)| Event::Leave(node, number)),
        6 => node.clone().prop_map(Event::Exchange),
        2 => node.clone().prop_map(Event::LoseUpdate),
        2 => node.clone().prop_map(Event::LoseAnswer),
        2 => (0..20_usize).prop_map(Event::Repeat),
        1 => node.prop_map(Event::Kill),
        1 => Just(Event::TakeOver),
        2 => (0..6_000_u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn the_owner_follows_what_the_live_nodes_follow(events in prop::collection::vec(event(), 1..120)) {
        let mut now = Instant::now();
        let mut nodes: Vec<_> = (0..NODES).map(Node::new).collect();
        let mut owner = Owner::default();
        let mut sent: Vec<InterestUpdate> = Vec::new();
        for (count, event) in events.into_iter().enumerate() {
            match event {
                Event::Subscribe(node, number) => nodes[node].subscribe(number),
                Event::Leave(node, number) => nodes[node].leave(number),
                Event::Exchange(node) | Event::LoseUpdate(node) | Event::LoseAnswer(node) => {
                    let node = &mut nodes[node];
                    let NextStep::Send(update) = node.book.next_step(&node.name, now) else {
                        continue;
                    };
                    sent.push(update.clone());
                    if matches!(event, Event::LoseUpdate(_)) {
                        continue;
                    }
                    let answer = owner.receive(&update, now);
                    if matches!(event, Event::Exchange(_)) {
                        node.take(answer, now);
                    }
                }
                // Nobody waits for the answer any more.
                Event::Repeat(age) => if let Some(at) = sent.len().checked_sub(1 + age) {
                    let _ = owner.receive(&sent[at], now);
                },
                Event::Kill(node) => nodes[node] = Node::new(NODES + count),
                Event::TakeOver => owner = Owner::default(),
                Event::Pass(ms) => now += Duration::from_millis(ms),
            }
            owner.0.expire(now);
        }
        // One round: the nodes that were killed are silent, and the others say what they have to say.
        now += LEASE;
        for node in &mut nodes {
            node.book.hasten();
            loop {
                match node.book.next_step(&node.name, now) {
                    NextStep::Send(update) => {
                        let answer = owner.receive(&update, now);
                        node.take(answer, now);
                    }
                    NextStep::Wait(until) if until < now + Duration::from_millis(100) => now = until,
                    NextStep::Wait(_) => break,
                }
            }
            prop_assert!(node.waiting.is_empty());
        }
        owner.0.expire(now);
        let live: HashSet<_> = nodes.iter().flat_map(|node| node.followed.iter().cloned()).collect();
        prop_assert_eq!(owner.0.channels(), live);
    }
}

#[test]
fn a_hundred_thousand_wallets_are_told_evenly() {
    let (mut now, mut node) = (Instant::now(), Node::new(0));
    let wallet = |number: usize| ChannelName::parse(&format!("wallet:{number}")).unwrap();
    let mut first = Owner::default();
    let mut verdicts = Vec::new();
    for number in 0..100_000 {
        let channel = wallet(number);
        verdicts.extend(node.book.add(&channel, follower(&channel)).unwrap());
        while number % 1_000 == 999
            && let NextStep::Send(update) = node.book.next_step(&node.name, now)
        {
            let answer = first.receive(&update, now);
            node.book.take_answer(answer.unwrap(), now);
        }
    }
    first = Owner::default();
    node.book.hasten();
    let begun = now;
    let (mut updates, mut longest) = (0, 0);
    let mut heard = None;
    loop {
        match node.book.next_step(&node.name, now) {
            NextStep::Send(update) => {
                updates += 1;
                longest = longest.max(update.added.len());
                let answer = first.receive(&update, now);
                node.book.take_answer(answer.unwrap(), now);
            }
            NextStep::Wait(until) if updates < 170 => {
                if updates == 50 && heard.is_none() {
                    // A new subscription does not wait for them.
                    let late = wallet(1_000_001);
                    heard = node.book.add(&late, follower(&late)).unwrap();
                    assert!(matches!(
                        node.book.next_step(&node.name, now),
                        NextStep::Send(_)
                    ));
                    continue;
                }
                now = until;
            }
            NextStep::Wait(until) if until < now + Duration::from_secs(1) => now = until,
            NextStep::Wait(_) => break,
        }
    }
    assert_eq!(heard.unwrap().try_recv(), Ok(Ok(())));
    assert!((100..=1_000).contains(&longest), "{longest}");
    assert!((150..=300).contains(&updates), "{updates}");
    let took = now - begun;
    assert!((8..=12).contains(&took.as_secs()), "{took:?}");
}
