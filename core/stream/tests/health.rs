//! `status`: every client hears once that the server is degraded, and once that it is well.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use tidewire_proto::v1::{ServerState, server_message::Data};
use tidewire_stream::{Connection, OutgoingMessage, PartReport, ShardId, StreamOptions};

use support::{client_on, core_with, take};

/// Messages that the client receives now: `welcome`, `ok` or `degraded`.
fn received(connection: &Connection) -> Vec<&'static str> {
    let messages = take(connection).into_iter();
    let names = messages.filter_map(|message| match message {
        OutgoingMessage::Direct(message) => match message.to_message().data? {
            Data::Welcome(_) => Some("welcome"),
            Data::Status(status) if status.state() == ServerState::Ok => Some("ok"),
            Data::Status(_) => Some("degraded"),
            _ => None,
        },
        _ => None,
    });
    names.collect()
}

fn report(has_fault: bool) -> Vec<PartReport> {
    vec![PartReport {
        part: "store".to_owned(),
        fault: has_fault.then(|| "it is full".to_owned().into()),
    }]
}

#[tokio::test(start_paused = true)]
async fn a_change_reaches_everyone_once_and_later_clients_after_welcome() {
    let (stream, _) = core_with([], StreamOptions::default());
    let first = stream.connect(client_on(ShardId::CALLER)).await;
    stream.report_health(report(false)).await;
    assert_eq!(received(&first), ["welcome"]);
    for _ in 0..3 {
        stream.report_health(report(true)).await;
    }
    let second = stream.connect(client_on(ShardId::CALLER)).await;
    assert_eq!(received(&first), ["degraded"]);
    assert_eq!(received(&second), ["welcome", "degraded"]);
    for _ in 0..3 {
        stream.report_health(report(false)).await;
    }
    let third = stream.connect(client_on(ShardId::CALLER)).await;
    assert_eq!(received(&first), ["ok"]);
    assert_eq!(received(&second), ["ok"]);
    assert_eq!(received(&third), ["welcome"]);
}

proptest! {
    /// In any order of reports and connections, a client hears `welcome` first, then every
    /// change, and knows the state at the end.
    #[test]
    fn a_client_knows_the_state(reports in prop::collection::vec(any::<bool>(), 1..20), at in 0_usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (stream, _) = core_with([], StreamOptions::default());
            let mut client = None;
            let mut expected = Vec::new();
            let mut is_degraded = false;
            for (index, has_fault) in reports.iter().enumerate() {
                if index == at.min(reports.len() - 1) {
                    client = Some(stream.connect(client_on(ShardId::CALLER)).await);
                    expected.push("welcome");
                    if is_degraded {
                        expected.push("degraded");
                    }
                }
                stream.report_health(report(*has_fault)).await;
                if client.is_some() && *has_fault != is_degraded {
                    expected.push(if *has_fault { "degraded" } else { "ok" });
                }
                is_degraded = *has_fault;
            }
            assert_eq!(received(&client.unwrap()), expected);
        });
    }
}
