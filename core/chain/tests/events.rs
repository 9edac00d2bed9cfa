//! Event filters: which are refused, which share a channel, which events are published and
//! retracted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use alloy::{
    primitives::{Address, B256, LogData, U256, keccak256},
    rpc::types::Log,
};
use support::{CHAIN, Node, account};
use tidewire_chain::{
    ChannelEvent,
    events::{EventTracker, Filter},
};
use tidewire_proto::v1::{EventFilter, EventLog};
use tidewire_stream::Event;

const TRANSFER: &str = "event Transfer(address indexed from, address indexed to, uint256 value)";

fn filter(addresses: &[&str], topics: &[&str], abi: &[&str]) -> EventFilter {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    EventFilter {
        addresses: owned(addresses),
        topics: owned(topics),
        abi: owned(abi),
    }
}

fn transfer(contract: Address, to: Address, value: u64) -> Log {
    let topics = vec![
        keccak256("Transfer(address,address,uint256)"),
        B256::ZERO,
        to.into_word(),
    ];
    let data = U256::from(value).to_be_bytes::<32>().into();
    Log {
        inner: alloy::primitives::Log {
            address: contract,
            data: LogData::new_unchecked(topics, data),
        },
        log_index: Some(value),
        ..Log::default()
    }
}

fn logs(events: Vec<ChannelEvent>) -> Vec<EventLog> {
    let logs = events.into_iter().map(|event| match event.event {
        Event::EventLog(log) => log,
        other => panic!("{other:?}"),
    });
    logs.collect()
}

#[test]
fn a_refused_filter_names_what_is_wrong() {
    let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    let wrong = right.replace("5aA", "5Aa");
    let long = vec![right; 101];
    for (given, expected) in [
        (filter(&[], &[], &[]), "names no address and no topic"),
        (filter(&[], &["", ""], &[]), "names no address and no topic"),
        (
            filter(&["0x12"], &[], &[]),
            "address \"0x12\" is not 20 bytes",
        ),
        (
            filter(&[&right[2..]], &[], &[]),
            "is not 20 bytes of hex that begin with 0x",
        ),
        (
            filter(&[&wrong], &[], &[]),
            "has a wrong checksum, expected 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        ),
        (filter(&[right], &[right], &[]), "topic 0 is"),
        (
            filter(&[right], &[""; 5], &[]),
            "has 5 topics, expected at most 4",
        ),
        (
            filter(&long, &[], &[]),
            "has 101 addresses, expected at most 100",
        ),
        (filter(&[right], &[], &["Transfer("]), "is not understood"),
    ] {
        let error = Filter::parse(&given).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    Filter::parse(&filter(&[right], &[], &[])).unwrap();
    Filter::parse(&filter(&[&right.to_lowercase()], &[], &[])).unwrap();
}

#[test]
fn equal_filters_share_a_channel() {
    let (a, b) = (
        "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
        "0x00000000000000000000000000000000000000aa",
    );
    let channel = |given: EventFilter| Filter::parse(&given).unwrap().channel(1);
    let first = channel(filter(&[a, b], &[""], &[TRANSFER]));
    let upper = a.to_uppercase().replace("0X", "0x");
    let spaced = TRANSFER.replace(", ", ",").replace("uint256", "uint");
    assert_eq!(
        first,
        channel(filter(&[b, &upper, b], &[], &[&spaced, TRANSFER]))
    );
    assert!(first.as_str().starts_with("events:1:"));
    for other in [
        filter(&[a], &[], &[TRANSFER]),
        filter(&[a, b], &[], &[]),
        filter(&[a, b], &[&B256::ZERO.to_string()], &[TRANSFER]),
        filter(&[a, b], &["", &B256::ZERO.to_string()], &[TRANSFER]),
    ] {
        assert_ne!(first, channel(other));
    }
}

#[test]
fn logs_reach_the_filters_that_match_them_and_are_retracted() {
    let mut tracker = EventTracker::new(CHAIN);
    let mut node = Node::default();
    let contract = format!("{:?}", account(0xAA));
    let to = account(5).into_word().to_string();
    let by_contract = Filter::parse(&filter(&[&contract], &[], &[TRANSFER])).unwrap();
    let by_topic = Filter::parse(&filter(&[], &["", "", &to], &[])).unwrap();
    let by_contract = tracker.add(by_contract).unwrap();
    let update = node.mine_logs(vec![
        transfer(account(0xAA), account(5), 1),
        transfer(account(0xBB), account(5), 2),
        transfer(account(0xAA), account(6), 3),
    ]);
    let published = logs(tracker.apply(&update));
    assert_eq!(
        published
            .iter()
            .map(|log| log.log_index)
            .collect::<Vec<_>>(),
        [1, 3]
    );
    assert_eq!(published[0].event.as_deref(), Some("Transfer"));
    assert_eq!(
        published[0].args.as_deref(),
        Some(
            &br#"{"from":"0x0000000000000000000000000000000000000000","to":"0x0000000000000000000000000000000000000005","value":"1"}"#[..]
        )
    );
    assert!(!published[0].removed && published[0].block_number == 1);

    // A filter that was added after a block receives no retraction of it.
    let by_topic = tracker.add(by_topic).unwrap();
    let events = tracker.apply(&node.reorg(1, &[]));
    assert!(events.iter().all(|event| event.channel == by_contract));
    let published = logs(events);
    assert_eq!(
        published
            .iter()
            .map(|log| log.log_index)
            .collect::<Vec<_>>(),
        [3, 1]
    );
    assert!(
        published
            .iter()
            .all(|log| log.removed && log.event.is_some())
    );

    let update = node.mine_logs(vec![transfer(account(0xBB), account(5), 2)]);
    let events = tracker.apply(&update);
    assert_eq!(events[0].channel, by_topic);
    assert_eq!(logs(events)[0].args, None);
    tracker.remove(&by_topic);
    tracker.remove(&by_contract);
    let update = node.mine_logs(vec![transfer(account(0xAA), account(5), 2)]);
    assert!(tracker.apply(&update).is_empty() && tracker.is_empty());
}

#[test]
fn a_filter_stays_until_it_is_removed_as_often_as_it_was_added() {
    let mut tracker = EventTracker::new(CHAIN);
    let wanted = Filter::parse(&filter(&[&format!("{:?}", account(1))], &[], &[])).unwrap();
    let channel = tracker.add(wanted.clone()).unwrap();
    tracker.add(wanted).unwrap();
    tracker.remove(&channel);
    assert_eq!(tracker.len(), 1);
    tracker.remove(&channel);
    tracker.remove(&channel);
    assert!(tracker.is_empty());
}

/// A node marks a log of an included block as `removed`.
#[test]
fn a_log_that_its_node_removed_is_not_published() {
    let mut tracker = EventTracker::new(CHAIN);
    let contract = format!("{:?}", account(0xAA));
    tracker
        .add(Filter::parse(&filter(&[&contract], &[], &[])).unwrap())
        .unwrap();
    let mut log = transfer(account(0xAA), account(5), 1);
    log.removed = true;
    assert!(
        tracker
            .apply(&Node::default().mine_logs(vec![log]))
            .is_empty()
    );
}

#[test]
fn the_contracts_of_all_filters_are_bounded() {
    let mut tracker = EventTracker::new(CHAIN);
    let hundred = |number: u64| {
        let addresses = (0..100).map(|other| {
            let hash = keccak256((number * 100 + other).to_be_bytes());
            format!("{:?}", Address::from_word(hash))
        });
        let addresses: Vec<_> = addresses.collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        Filter::parse(&filter(&addresses, &[], &[])).unwrap()
    };
    let channels: Vec<_> = (0..10_000)
        .map(|number| tracker.add(hundred(number)).unwrap())
        .collect();
    let refused = tracker.add(hundred(10_000)).unwrap_err().to_string();
    let expected =
        "the event filters on this chain name 1000000 contracts, 100 more would be too many";
    assert_eq!(refused, expected);
    tracker.remove(&channels[0]);
    tracker.add(hundred(10_000)).unwrap();
    assert!(tracker.add(hundred(10_001)).is_err());
}
