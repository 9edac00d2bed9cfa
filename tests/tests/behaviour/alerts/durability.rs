//! Durability of the real server: kills between a value and its delivery.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Server, Token, eventually};

use super::{builder_in, evaluate, register};

/// The ids of the fires in the notifications of a user.
async fn notified(server: &Server) -> Vec<String> {
    let body = json!({"user": "ada", "limit": 100});
    let method = "NotifyService/ListNotifications";
    let list = server
        .call(method, Some(&Token::service()), &body)
        .await
        .json();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["data"]["fireId"].as_str().unwrap().to_owned())
        .collect()
}

async fn log(server: &Server) -> Vec<Value> {
    let body = json!({"user": "ada", "limit": 100});
    let method = "AlertService/ListFires";
    let list = server
        .call(method, Some(&Token::service()), &body)
        .await
        .json();
    list["items"].as_array().unwrap().clone()
}

/// The value goes out, and the server is killed without waiting for the answer.
#[tokio::test]
async fn a_rule_fires_once_though_the_server_is_killed() {
    let folder = TempDir::new().unwrap();
    let mut server = builder_in(&folder).start().await;
    let rounds = 8_i64;
    for round in 0..rounds {
        let rule = json!({"condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": 100 + round}});
        register(&server, "ada", rule).await;
    }
    assert_eq!(evaluate(&server, "BTC-USD", 99.0).await, 0);
    for round in 0..rounds {
        let price = 100 + round;
        let body = json!({"price": {"symbol": "BTC-USD", "price": price, "timestamp": 1}});
        let url = server.url("/v1/rpc/AlertService/Evaluate");
        let call = server.http().post(url).json(&body);
        // The moments of the kill spread over the way of the fire.
        let moment = std::time::Duration::from_micros(700 * round.unsigned_abs());
        let _ = tokio::time::timeout(moment, call.send()).await;
        server.kill().await;
        server = builder_in(&folder).start().await;
        // The source repeats its price, as a feed does.
        evaluate(&server, "BTC-USD", f64::from(i32::try_from(price).unwrap())).await;
        let fires = log(&server).await;
        assert_eq!(i64::try_from(fires.len()).unwrap(), round + 1);
        let mut expected: Vec<_> = fires
            .iter()
            .map(|fire| fire["id"].as_str().unwrap().to_owned())
            .collect();
        expected.sort();
        eventually("the notifications", async || {
            let mut seen = notified(&server).await;
            seen.sort();
            assert!(seen.len() <= expected.len(), "{seen:?}");
            (seen == expected).then_some(())
        })
        .await;
    }
}
