//! Ledger: the chain as a client reads it from a `blocks:` channel.

use serde_json::Value;
use tidewire_tests::{Client, Node, Server, ServerBuilder, Transport};

use crate::blocks::wait_for_block;

/// A server on a chain with these endpoints, and a short block time, so that endpoints are polled
/// often.
pub(crate) fn on_chain(builder: ServerBuilder, id: u64, endpoints: &[String]) -> ServerBuilder {
    on_chain_with(builder, id, endpoints, "")
}

/// As [`on_chain`], with more keys.
pub(crate) fn on_chain_with(
    builder: ServerBuilder,
    id: u64,
    endpoints: &[String],
    rest: &str,
) -> ServerBuilder {
    builder.table(&format!(
        "[[chain]]\nid = {id}\nendpoints = {endpoints:?}\nblock_time_ms = 200\n{rest}\n"
    ))
}

/// The blocks of a chain after the messages on its channel.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Oldest first.
    pub(crate) blocks: Vec<(u64, String)>,
    /// The number of retracted blocks of each reorg.
    pub(crate) reorgs: Vec<usize>,
    seq: Option<u64>,
}

impl Ledger {
    /// A client that is subscribed to the blocks of chain 31337, once the server has read one,
    /// and its empty ledger.
    pub(crate) async fn subscribed(server: &Server, channel: &str) -> (Client, Self) {
        wait_for_block(server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, server).await;
        client.subscribe(channel).await;
        (client, Self::default())
    }

    /// Adds the next block, which must link to the last one.
    pub(crate) fn push(&mut self, block: &Value) {
        let text = |name: &str| block[name].as_str().unwrap().to_owned();
        let reorged = block["reorged"].as_array().cloned().unwrap_or_default();
        for hash in &reorged {
            let (_, last) = self.blocks.pop().expect("a retracted block was published");
            assert_eq!(last, hash.as_str().unwrap(), "{block}");
        }
        if !reorged.is_empty() {
            self.reorgs.push(reorged.len());
        }
        let number = block["number"].as_u64().unwrap();
        if let Some((before, hash)) = self.blocks.last() {
            assert_eq!(*hash, text("parentHash"), "{block} after {:?}", self.blocks);
            assert_eq!(before + 1, number);
        }
        self.blocks.push((number, text("hash")));
    }

    /// Reads blocks from a client until the node's newest block.
    pub(crate) async fn follow(&mut self, client: &mut Client, node: &Node, channel: &str) {
        let height = node.height().await;
        self.follow_to(client, channel, height, &node.hash(height).await)
            .await;
    }

    /// Reads blocks from a client until this one.
    pub(crate) async fn follow_to(
        &mut self,
        client: &mut Client,
        channel: &str,
        number: u64,
        hash: &str,
    ) {
        while self.blocks.last() != Some(&(number, hash.to_owned())) {
            self.read(client, channel).await;
        }
    }

    /// Reads blocks from a client until one is as high as this.
    pub(crate) async fn follow_until(&mut self, client: &mut Client, channel: &str, number: u64) {
        while self.blocks.last().is_none_or(|(last, _)| *last < number) {
            self.read(client, channel).await;
        }
    }

    async fn read(&mut self, client: &mut Client, channel: &str) {
        let message = client.next_on(channel).await.expect("block");
        let seq = message.seq.unwrap();
        assert!(self.seq.is_none_or(|before| before + 1 == seq), "{seq}");
        self.seq = Some(seq);
        self.push(&message.data);
    }

    /// The `seq` of the newest message.
    pub(crate) fn seq(&self) -> u64 {
        self.seq.unwrap()
    }

    /// Compares all blocks with the node's, except for the genesis block, which the node creates
    /// at each start.
    pub(crate) async fn check(&self, node: &Node) {
        for (number, hash) in self.blocks.iter().filter(|(number, _)| *number > 0) {
            assert_eq!(node.hash(*number).await, *hash, "block {number}");
        }
    }
}
