//! Loading: prices that arrive while the rules of an earlier run are still loaded.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_store::{Batch, EmbeddedStore, Store as _, Table};
use tidewire_tests::{Server, VenueKind, VenueStandIn, eventually, venue::Trade};

use super::{call, register};
use crate::prices::server_of;

const RULES: Table = Table("alert.rules");

/// Rules that keep the server loading for longer than its start waits for them.
const CROWD: u64 = 20_000;

/// Rules that are stored in one batch.
const PART: usize = 2_000;

/// Starts a server whose data is in `folder`, and a venue that sends one trade and no other.
async fn start_with_a_trade(folder: &TempDir) -> (Server, VenueStandIn) {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let path = format!("path = {:?}", folder.path().display().to_string());
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD"])
        .set("store", &path)
        .start()
        .await;
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 1,
        price: "99.5",
    });
    venue.wait_read().await;
    (server, venue)
}

async fn wait_armed(server: &Server, user: &str) {
    eventually("the rule to have a value", async || {
        let listed = call(server, "ListAlerts", &json!({"user": user})).await;
        // While rules are loaded, the service is unavailable.
        let rules: Option<Value> = (listed.status == 200).then(|| listed.json());
        rules.filter(|rules| rules["items"][0]["state"] == "armed")
    })
    .await;
}

/// Stores very many copies of the newest rule.
async fn add_crowd(folder: &Path) {
    let store = EmbeddedStore::open(folder).unwrap();
    let rows = store.scan(RULES, Vec::new(), None, 10).await.unwrap();
    let (first, _) = rows.first().unwrap();
    let (_, rule) = rows.last().unwrap();
    let first = u64::from_be_bytes(first.as_slice().try_into().unwrap());
    let numbers: Vec<u64> = (1..=CROWD).collect();
    for part in numbers.chunks(PART) {
        let mut batch = Batch::new();
        for number in part {
            let key = (first - number).to_be_bytes().to_vec();
            batch.put(RULES, key, rule.as_slice().to_vec());
        }
        store.commit(batch).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_price_that_arrives_while_rules_are_loaded_is_not_lost() {
    let folder = TempDir::new().unwrap();
    let (mut server, _venue) = start_with_a_trade(&folder).await;
    let test = |kind: &str, threshold: u64| json!({"kind": kind, "symbol": "BTC-USD", "threshold": threshold});
    // A rule of several conditions knows nothing of a symbol without a live source.
    let both = [test("price_above", 100), test("price_below", 1_000)];
    register(
        &server,
        "ada",
        json!({"condition": {"kind": "all", "conditions": both}}),
    )
    .await;
    wait_armed(&server, "ada").await;
    let many: Vec<_> = (1..=16)
        .map(|number| test("price_above", 1_000_000 * number))
        .collect();
    register(
        &server,
        "crowd",
        json!({"condition": {"kind": "any", "conditions": many}}),
    )
    .await;
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    add_crowd(folder.path()).await;
    let (server, _venue) = start_with_a_trade(&folder).await;
    wait_armed(&server, "ada").await;
}
