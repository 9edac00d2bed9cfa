//! Coins that a contract passes on, found by whichever trace a node has.

use serde_json::{Value, json};
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply};

use crate::{shapes::deploy, watches::server_on};

/// Passes the coins it gets on to the account that its first word names.
const FORWARDER: &str = "5f5f5f5f345f355af100";

/// A node that knows these methods alone of those that trace.
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
async fn coins_that_a_contract_passes_on_are_found_however_a_node_traces() {
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
        let asked = json!([{"from": accounts[0], "to": contract, "value": "0x7", "data": paid}]);
        node.call("eth_sendTransaction", asked).await;
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
