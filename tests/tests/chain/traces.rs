//! Traces: coins that a contract forwards are found by each trace method.

use serde_json::{Value, json};
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply};

use crate::{malformed_logs::deploy, watching::server_on};

/// Forwards the coins that it receives to the account in the first word of its call data.
const FORWARDER: &str = "5f5f5f5f345f355af100";

/// A node that serves no trace method but these.
fn with(known: &'static [&'static str]) -> impl Fn(&str, &Value, Value) -> Reply {
    move |method, _params, truth| {
        let traces = method.starts_with("debug_") || method.starts_with("trace_");
        if !traces || known.contains(&method) {
            return Reply::Response(truth);
        }
        let error = json!({"code": -32601, "message": "the method does not exist"});
        Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
    }
}

#[tokio::test]
async fn coins_forwarded_by_a_contract_are_found_by_each_trace_method() {
    for known in [
        &["debug_traceBlockByHash"][..],
        &["debug_traceBlockByNumber"],
        &["trace_block"],
    ] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let contract = deploy(&node, &accounts[0], FORWARDER).await;
        let faulty = FaultyNode::in_front_of(&node, with(known)).await;
        let server = server_on(Server::builder(), faulty.ws()).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
        client.subscribe(&channel).await;
        let paid = format!("0x{:0>64}", accounts[1].trim_start_matches("0x"));
        let request = json!([{"from": accounts[0], "to": contract, "value": "0x7", "data": paid}]);
        node.call("eth_sendTransaction", request).await;
        loop {
            let update = client.next_on(&channel).await.expect("wallet_update").data;
            if update["type"] == "balance" {
                let data = &update["data"];
                let found = (&data["delta"], &data["how"]);
                assert_eq!(found, (&json!("7"), &json!("trace")), "{known:?}: {update}");
                break;
            }
        }
    }
}
