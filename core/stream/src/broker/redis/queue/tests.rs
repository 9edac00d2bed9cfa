//! Tests of the queue: turns, batches, room, and a model of all that may happen.

use std::collections::HashSet;

use proptest::prelude::*;
use tidewire_redis::{Cluster, ServerAddress, Slot};

use super::{super::keys::KeyNames, *};

fn item(payload: &'static str, mode: Mode) -> Item {
    Item {
        payload: Bytes::from_static(payload.as_bytes()),
        mode,
        fence: None,
        key: None,
        reply: None,
        is_latest: false,
    }
}

fn payloads(write: &Write) -> Vec<&[u8]> {
    let items = write.batch.items.iter();
    items.map(|item| &*item.payload).collect()
}

fn queue(buffer: Arc<Buffer>) -> Arc<Queue> {
    queue_of(buffer, &Cluster::default())
}

fn queue_of(buffer: Arc<Buffer>, cluster: &Cluster) -> Arc<Queue> {
    Queue::new(buffer, Route::new(cluster, &KeyNames::new("test", 0)))
}

/// Takes a round, and finishes the one before.
fn round(queue: &Queue, before: &[Write]) -> Vec<Write> {
    let finished = before.iter().map(|write| write.batch.channel.clone());
    queue.give_back(finished.collect::<HashSet<_>>(), Vec::new());
    queue.take(&Place::Only)
}

#[test]
fn a_batch_has_one_mode_and_a_channel_keeps_its_order() {
    let buffer = Buffer::new(usize::MAX);
    let queue = queue(buffer.clone());
    let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
    for (channel, payload, mode) in [
        (&a, "1", Mode::Any),
        (&b, "2", Mode::Any),
        (&a, "3", Mode::Any),
        (&a, "4", Mode::Known),
    ] {
        queue.push(channel, item(payload, mode)).unwrap();
    }
    let first = round(&queue, &[]);
    assert_eq!(first.len(), 3);
    assert_eq!(payloads(&first[0]), [b"1", b"3"]);
    assert_eq!(payloads(&first[1]), [b"2"]);
    assert_eq!(payloads(&first[2]), [b"4"]);
    let slots: Vec<_> = first.iter().map(|write| write.batch.slot).collect();
    assert_eq!(slots, [0, 0, 1]);
    // What comes while a channel is written waits for its turn.
    queue.push(&a, item("5", Mode::Any)).unwrap();
    assert!(queue.take(&Place::Only).is_empty());
    let second = round(&queue, &first);
    assert_eq!(payloads(&second[0]), [b"5"]);
    assert!(round(&queue, &second).is_empty());
    drop((first, second));
    assert_eq!(buffer.used(), 0);
}

#[test]
fn a_batch_has_one_fence() {
    let queue = queue(Buffer::new(usize::MAX));
    let channel = ChannelName::parse("a:1").unwrap();
    let fence = |term: &str| {
        Some(Arc::new(Fence {
            lease: "lease".to_owned(),
            term: term.to_owned(),
        }))
    };
    for (payload, fence) in [
        ("1", fence("1-a")),
        ("2", fence("1-a")),
        ("3", fence("2-b")),
    ] {
        let fenced = Item {
            fence,
            ..item(payload, Mode::Any)
        };
        queue.push(&channel, fenced).unwrap();
    }
    let round = round(&queue, &[]);
    let terms: Vec<_> = round
        .iter()
        .map(|write| (payloads(write).len(), &*write.batch.fence().unwrap().term))
        .collect();
    assert_eq!(terms, [(2, "1-a"), (1, "2-b")]);
}

#[test]
fn a_busy_channel_has_its_next_batch_after_all_others() {
    let queue = queue(Buffer::new(usize::MAX));
    let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
    for _ in 0..10 * BATCH_ITEMS {
        queue.push(&a, item("1", Mode::Any)).unwrap();
    }
    queue.push(&b, item("2", Mode::Any)).unwrap();
    let first = round(&queue, &[]);
    let turns: Vec<_> = first
        .iter()
        .map(|one| (one.batch.slot, one.batch.items.len()))
        .collect();
    let full = BATCH_ITEMS;
    assert_eq!(turns, [(0, full), (0, 1), (1, full), (2, full), (3, full)]);
    assert_eq!(round(&queue, &first).len(), CHANNEL_BATCHES);
}

#[test]
fn a_full_buffer_refuses_and_given_up_publications_leave_it() {
    let buffer = Buffer::new(2 * ITEM_BYTES + 2);
    let queue = queue(buffer.clone());
    let channel = ChannelName::parse("a:1").unwrap();
    let (reply, outcome) = oneshot::channel();
    let mut first = item("1", Mode::Any);
    first.reply = Some(reply);
    queue.push(&channel, first).unwrap();
    queue.push(&channel, item("2", Mode::Any)).unwrap();
    assert!(queue.push(&channel, item("3", Mode::Any)).is_err());
    drop(outcome);
    let round = queue.take(&Place::Only);
    assert_eq!(payloads(&round[0]), [b"2"]);
    queue.push(&channel, item("3", Mode::Any)).unwrap();
    drop(round);
    assert_eq!(buffer.used(), 1 + ITEM_BYTES);
}

#[test]
fn a_channel_whose_slot_moves_keeps_its_order() {
    let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
    let queue = queue_of(Buffer::new(usize::MAX), &cluster);
    let channel = ChannelName::parse("a:1").unwrap();
    let slot = Slot::of(&KeyNames::new("test", 0).shard_channel(&channel));
    let [one, two] = [1, 2].map(|port| ServerAddress::new("a", port));
    let places = [&one, &two].map(|server| Place::Master(server.clone()));
    // The cluster is not known yet.
    queue.push(&channel, item("1", Mode::Any)).unwrap();
    assert!(queue.take(&places[0]).is_empty());
    cluster.note_moved(slot, &one);
    let first = queue.take(&places[0]);
    assert_eq!(payloads(&first[0]), [b"1"]);
    queue.push(&channel, item("2", Mode::Any)).unwrap();
    cluster.note_moved(slot, &two);
    // The outcome of the first write is not known: nothing follows it.
    assert!(queue.take(&places[1]).is_empty());
    let number = first[0].number;
    queue.give_back([], first);
    assert!(queue.take(&places[0]).is_empty());
    let again = queue.take(&places[1]);
    assert_eq!((again.len(), again[0].number), (1, number));
    assert_eq!(payloads(&again[0]), [b"1"]);
    queue.give_back([channel], Vec::new());
    assert_eq!(payloads(&queue.take(&places[1])[0]), [b"2"]);
}

/// A queue of two servers, and a channel of each.
fn of_two(buffer: Arc<Buffer>) -> (Arc<Queue>, [ChannelName; 2], [Place; 2]) {
    let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
    let queue = queue_of(buffer, &cluster);
    let channels = ["a:1", "a:2"].map(|name| ChannelName::parse(name).unwrap());
    let servers = [1, 2].map(|port| ServerAddress::new("a", port));
    for (channel, server) in channels.iter().zip(&servers) {
        cluster.note_moved(slot_of(channel), server);
    }
    (queue, channels, servers.map(Place::Master))
}

fn slot_of(channel: &ChannelName) -> Slot {
    Slot::of(&KeyNames::new("test", 0).shard_channel(channel))
}

#[test]
fn what_waits_for_a_lost_server_leaves_room_for_the_others() {
    let buffer = Buffer::new(30 * (ITEM_BYTES + 1));
    let (queue, [lost, well], [_, place]) = of_two(buffer.clone());
    let mut tickets = Vec::new();
    let full = loop {
        match queue.push(&lost, item("1", Mode::Any)) {
            Ok(ticket) => tickets.push(ticket),
            Err(full) => break full,
        }
    };
    // One part for each server, and one for channels without a server.
    assert_eq!(tickets.len(), 10);
    assert_eq!(
        full.to_string(),
        "2570 bytes wait for a server of Redis already, as many as broker.buffer_bytes allows for one of several"
    );
    for _ in 0..100 {
        queue.push(&well, item("2", Mode::Any)).unwrap();
        let taken = queue.take(&place);
        queue.give_back([well.clone()], Vec::new());
        drop(taken);
    }
    // Without a connection, too: nobody takes them.
    for ticket in tickets {
        queue.give_up(&lost, ticket);
    }
    assert_eq!(buffer.used(), 0);
    queue.push(&lost, item("3", Mode::Any)).unwrap();
}

#[test]
fn the_newest_value_takes_the_place_of_the_ones_before() {
    let buffer = Buffer::new(30 * (ITEM_BYTES + 1));
    let (queue, [channel, other], [place, _]) = of_two(buffer);
    let latest = |payload| Item {
        is_latest: true,
        ..item(payload, Mode::Any)
    };
    for _ in 0..100 {
        queue.push(&channel, latest("1")).unwrap();
    }
    queue.push(&channel, item("2", Mode::Any)).unwrap();
    for _ in 0..99 {
        queue.push(&channel, latest("1")).unwrap();
    }
    queue.push(&channel, latest("3")).unwrap();
    // One that is no value finds room as well.
    for _ in 0..7 {
        queue.push(&channel, item("4", Mode::Any)).unwrap();
    }
    queue.push(&other, item("5", Mode::Any)).unwrap();
    let taken = queue.take(&place);
    let written: Vec<_> = taken.iter().flat_map(payloads).collect();
    let count = |payload: &[u8]| written.iter().filter(|one| **one == payload).count();
    assert_eq!(
        (count(b"2"), count(b"3"), count(b"4")),
        (1, 1, 7),
        "{written:?}"
    );
}

/// Checks that the queue remembers nothing but what waits: each channel has something that waits or a
/// writer, and those without a writer have one turn each.
fn is_tidy(queue: &Queue) {
    let state = queue.state.lock();
    let mut turns = HashMap::new();
    for (place, lane) in &state.lanes {
        for (number, channel) in &lane.turns {
            let earlier = turns.insert(channel.clone(), (place.clone(), *number));
            assert_eq!(earlier, None, "{channel} has two turns");
        }
    }
    for (channel, pending) in &state.channels {
        let waits = !pending.items.is_empty() || !pending.unfinished.is_empty();
        assert!(waits || pending.is_taken, "nothing waits for {channel}");
        let turn = (!pending.is_taken).then(|| (pending.place.clone(), pending.turn));
        assert_eq!(turns.remove(channel), turn, "{channel}");
    }
    assert!(turns.is_empty(), "{turns:?}");
}

#[test]
fn channels_whose_senders_gave_up_are_forgotten_without_a_writer() {
    let queue = queue(Buffer::new(usize::MAX));
    let channel = |number: usize| ChannelName::parse(&format!("a:{number}")).unwrap();
    for round in 0..3 {
        let tickets: Vec<_> = (0..100)
            .map(|number| queue.push(&channel(number), item("1", Mode::Any)).unwrap())
            .collect();
        for (number, ticket) in tickets.into_iter().enumerate().skip(round) {
            queue.give_up(&channel(number), ticket);
        }
        is_tidy(&queue);
    }
    assert_eq!(queue.state.lock().channels.len(), 2);
    assert_eq!(queue.take(&Place::Only).len(), 2);
}

/// A step of the queue's model: what is pushed, who gives up, and what becomes of a round.
#[derive(Debug, Clone)]
enum Event {
    Push(usize, bool, bool),
    GiveUp(usize),
    Take(usize),
    Finish(usize),
    Fail(usize),
    Move(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..4_usize, any::<bool>(), any::<bool>())
            .prop_map(|(channel, waits, latest)| Event::Push(channel, waits, latest && !waits)),
        2 => (0..64_usize).prop_map(Event::GiveUp),
        3 => (0..2_usize).prop_map(Event::Take),
        2 => (0..2_usize).prop_map(Event::Finish),
        1 => (0..2_usize).prop_map(Event::Fail),
        1 => (0..4_usize, 0..2_usize).prop_map(|(channel, server)| Event::Move(channel, server)),
    ]
}

/// The publications that were accepted, and what became of them.
#[derive(Default)]
struct Model {
    /// Number, channel, ticket, whether it may be superseded.
    accepted: Vec<(u32, usize, u64, bool)>,
    given_up: HashSet<u32>,
    /// The senders that wait.
    waiting: HashMap<u32, oneshot::Receiver<Result<Receipt, StreamError>>>,
    /// The numbers that were written, by channel.
    written: [Vec<u32>; 4],
}

impl Model {
    fn finish(&mut self, queue: &Queue, names: &[ChannelName], writes: Vec<Write>) {
        let finished: HashSet<_> = writes.iter().map(|one| one.batch.channel.clone()).collect();
        for write in writes {
            let index = names.iter().position(|name| *name == write.batch.channel);
            for item in &write.batch.items {
                let number = u32::from_be_bytes((*item.payload).try_into().unwrap());
                self.written[index.unwrap()].push(number);
            }
        }
        queue.give_back(finished, Vec::new());
    }

    fn check(&self) {
        for (channel, written) in self.written.iter().enumerate() {
            let in_order = written.is_sorted_by(|one, next| one < next);
            assert!(in_order, "twice or out of order: {written:?}");
            let own = self.accepted.iter().filter(|one| one.1 == channel);
            let newest = own.clone().rfind(|one| one.3).map(|one| one.0);
            for (number, _, _, is_latest) in own {
                let may_be_missing = self.given_up.contains(number)
                    || (*is_latest && newest.is_some_and(|newest| *number < newest));
                assert!(
                    may_be_missing || written.contains(number),
                    "{number} is missing"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn each_publication_is_written_once_and_in_order(
        events in prop::collection::vec(event(), 1..200),
        room in 3..40_usize,
    ) {
        let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
        let buffer = Buffer::new(3 * room * (ITEM_BYTES + 4));
        let queue = queue_of(buffer.clone(), &cluster);
        let names = [1, 2, 3, 4].map(|one| ChannelName::parse(&format!("a:{one}")).unwrap());
        let servers = [1, 2].map(|port| ServerAddress::new("a", port));
        let places = servers.clone().map(Place::Master);
        for (index, name) in names.iter().enumerate() {
            cluster.note_moved(slot_of(name), &servers[index % 2]);
        }
        let (mut model, mut taken) = (Model::default(), [Vec::new(), Vec::new()]);
        for (number, event) in (0_u32..).zip(events) {
            match event {
                Event::Push(channel, waits, is_latest) => {
                    let (reply, outcome) = oneshot::channel();
                    let pushed = queue.push(&names[channel], Item {
                        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
                        reply: waits.then_some(reply),
                        is_latest,
                        ..item("", Mode::Any)
                    });
                    if let Ok(ticket) = pushed {
                        model.accepted.push((number, channel, ticket, is_latest));
                        if waits {
                            model.waiting.insert(number, outcome);
                        }
                    }
                }
                Event::GiveUp(index) => {
                    if let Some((number, channel, ticket, _)) = model.accepted.get(index)
                        && model.waiting.remove(number).is_some()
                    {
                        model.given_up.insert(*number);
                        queue.give_up(&names[*channel], *ticket);
                    }
                }
                Event::Take(place) if taken[place].is_empty() => {
                    taken[place] = queue.take(&places[place]);
                }
                Event::Take(_) => {}
                Event::Finish(place) => {
                    model.finish(&queue, &names, std::mem::take(&mut taken[place]));
                }
                Event::Fail(place) => queue.give_back([], std::mem::take(&mut taken[place])),
                Event::Move(channel, server) => {
                    cluster.note_moved(slot_of(&names[channel]), &servers[server]);
                    queue.follow();
                }
            }
            is_tidy(&queue);
        }
        for place in [0, 1] {
            queue.give_back([], std::mem::take(&mut taken[place]));
        }
        loop {
            let writes: Vec<_> = places.iter().flat_map(|place| queue.take(place)).collect();
            if writes.is_empty() {
                break;
            }
            model.finish(&queue, &names, writes);
        }
        model.check();
        is_tidy(&queue);
        prop_assert_eq!(buffer.used(), 0);
        for place in &places {
            prop_assert_eq!(buffer.account(place).used(), 0);
        }
    }
}
