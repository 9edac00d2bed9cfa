//! Fairness and completeness of the request queue.

use std::collections::HashSet;

use proptest::prelude::*;
use tidewire_stream::UserId;

use super::*;

fn client(name: &str) -> RequestOwner {
    RequestOwner {
        client: Some(ClientKey::User(UserId::new(name))),
        connection: None,
    }
}

/// A connection of the clients without a token at one address.
fn connection(id: ConnectionId) -> RequestOwner {
    RequestOwner {
        client: Some(ClientKey::Unknown),
        connection: Some(id),
    }
}

fn hash(number: u64) -> B256 {
    B256::left_padding_from(&number.to_be_bytes())
}

fn look_up(number: u64) -> NodeRequest {
    NodeRequest::Transaction(hash(number))
}

/// Sends all that may be in flight. Returns how many batches.
fn send_all(queue: &mut RequestQueue) -> usize {
    std::iter::from_fn(|| queue.next_batch()).count()
}

#[test]
fn a_line_with_many_requests_leaves_room_for_another() {
    let id = ConnectionId::random;
    let (many, same_client) = (connection(id()), connection(id()));
    for one in [client("one"), same_client, RequestOwner::default()] {
        let mut queue = RequestQueue::default();
        for number in 0..500 {
            queue.push(&many, look_up(number));
        }
        assert_eq!(send_all(&mut queue), MAX_IN_FLIGHT_OF_CONNECTION);
        queue.push(&one, look_up(1_000));
        let batch = queue.next_batch().unwrap();
        assert_eq!(
            (batch.owner, &batch.requests[..]),
            (one, &[look_up(1_000)][..])
        );
        assert_eq!(queue.next_batch(), None);
        // Each end lets the line send again, in its order.
        queue.finish(&many);
        let next = queue.next_batch().unwrap();
        assert_eq!(
            (next.requests.len(), &next.requests[0]),
            (BATCH, &look_up(40))
        );
    }
}

#[test]
fn clients_and_their_connections_take_turns() {
    let mut queue = RequestQueue::default();
    let mut number = 0;
    // One client has many connections, and others have one each.
    let many = (0..20).map(|_| connection(ConnectionId::random()));
    let others = ["a", "b", "c", "d"].map(client);
    for owner in many.chain(others) {
        for _ in 0..500 {
            number += 1;
            queue.push(&owner, look_up(number));
        }
    }
    let mut counts = HashMap::new();
    let mut lines = HashSet::new();
    while let Some(batch) = queue.next_batch() {
        *counts.entry(batch.owner.client.clone()).or_insert(0) += 1;
        if batch.owner.connection.is_some() {
            assert!(lines.insert(batch.owner.connection.map(|id| id.as_str().to_owned())));
        }
    }
    assert_eq!(counts[&Some(ClientKey::Unknown)], MAX_IN_FLIGHT_OF_CLIENT);
    assert_eq!(counts[&client("a").client], MAX_IN_FLIGHT_OF_CONNECTION);
    // A late client has a place at once.
    queue.push(&client("late"), look_up(0));
    assert_eq!(queue.next_batch().unwrap().owner, client("late"));
}

#[test]
fn a_late_client_waits_for_one_turn_of_the_others() {
    let mut queue = RequestQueue::default();
    let mut number = 0;
    let names: Vec<_> = (0..10).map(|name| client(&name.to_string())).collect();
    for owner in &names {
        for _ in 0..500 {
            number += 1;
            queue.push(owner, look_up(number));
        }
    }
    assert_eq!(send_all(&mut queue), MAX_IN_FLIGHT);
    queue.push(&client("late"), look_up(0));
    let mut turns = 0;
    for ended in names.iter().cycle() {
        queue.finish(ended);
        turns += 1;
        if queue
            .next_batch()
            .is_some_and(|batch| batch.owner == client("late"))
        {
            break;
        }
        assert!(turns <= names.len() + 1, "{turns}");
    }
}

#[test]
fn a_transaction_in_a_long_line_is_sent_with_the_line_of_another_client() {
    let mut queue = RequestQueue::default();
    for number in 0..500 {
        queue.push(&client("many"), look_up(number));
    }
    send_all(&mut queue);
    queue.join(&client("one"), hash(499));
    queue.join(&client("one"), hash(499));
    queue.join(&client("one"), hash(777));
    let batch = queue.next_batch().unwrap();
    let expected = (client("one"), &[look_up(499)][..]);
    assert_eq!((batch.owner, &batch.requests[..]), expected);
    assert_eq!(queue.next_batch(), None);
}

#[test]
fn the_lines_of_a_client_are_bounded() {
    let mut queue = RequestQueue::default();
    let mut number = 0;
    while !queue.is_full(&connection(ConnectionId::random())) {
        let owner = connection(ConnectionId::random());
        let mut line = 0;
        while !queue.is_full(&owner) {
            number += 1;
            line += 1;
            queue.push(&owner, look_up(number));
        }
        assert_eq!(line, MAX_LINE);
    }
    assert_eq!(number as usize, MAX_LINES_OF_CLIENT);
    assert!(!queue.is_full(&client("one")) && !queue.is_full(&RequestOwner::default()));
}

#[derive(Debug, Clone)]
enum Action {
    Push(usize, u64),
    Join(usize, u64),
    Send,
    Finish(prop::sample::Index),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..6_usize, 0..200_u64).prop_map(|(owner, number)| Action::Push(owner, number)),
        1 => (0..6_usize, 0..200_u64).prop_map(|(owner, number)| Action::Join(owner, number)),
        2 => Just(Action::Send),
        2 => any::<prop::sample::Index>().prop_map(Action::Finish),
    ]
}

proptest! {
    /// Every request is sent once, whatever the order, and nothing is left behind.
    #[test]
    fn every_request_is_sent_once(actions in prop::collection::vec(action(), 1..400)) {
        let owners = [
            RequestOwner::default(),
            client("a"),
            client("b"),
            connection(ConnectionId::random()),
            connection(ConnectionId::random()),
            connection(ConnectionId::random()),
        ];
        let mut queue = RequestQueue::default();
        let (mut pushed, mut sent, mut open) = (0, 0, Vec::new());
        let mut note = |batch: RequestBatch, open: &mut Vec<RequestOwner>| {
            let hashes: HashSet<_> = batch.requests.iter().map(NodeRequest::hash).collect();
            assert!(!hashes.is_empty() && hashes.len() <= BATCH);
            sent += batch.requests.len();
            open.push(batch.owner);
            assert!(open.len() <= MAX_IN_FLIGHT);
        };
        for action in actions {
            match action {
                Action::Push(from, number) => {
                    queue.push(&owners[from], look_up(number));
                    pushed += 1;
                }
                Action::Join(from, number) => queue.join(&owners[from], hash(number)),
                Action::Send => {
                    if let Some(batch) = queue.next_batch() {
                        note(batch, &mut open);
                    }
                }
                Action::Finish(index) if !open.is_empty() => {
                    queue.finish(&open.swap_remove(index.index(open.len())));
                }
                Action::Finish(_) => {}
            }
        }
        loop {
            while let Some(batch) = queue.next_batch() {
                note(batch, &mut open);
            }
            let Some(last) = open.pop() else { break };
            queue.finish(&last);
        }
        prop_assert_eq!(sent, pushed);
        prop_assert!(queue.by_transaction.is_empty() && queue.turns.is_empty());
        prop_assert!(queue.clients.is_empty() && queue.in_flight == 0);
    }
}
