//! What the chain engine does for each block, in one process and without a node: matching a
//! block against many watched wallets, and decoding its logs.
//!
//! ```text
//! cargo bench -p tidewire-chain                   # times, and memory where Linux tells it
//! cargo bench -p tidewire-chain -- decode         # only those with this in their name
//! ```

mod support;

use std::{
    error::Error,
    hint::black_box,
    io::{self, Write as _},
};

use alloy::{
    primitives::{Address, B256, Bytes, LogData, U256, keccak256},
    rpc::types::{Log, Transaction},
};
use serde_json::json;
use tidewire_chain::{
    BlockData, BlockRef,
    abi::EventAbi,
    decode::{CustomErrors, decode},
    transaction::{Monitor, MonitorOptions, StoredPhase, StoredWatch},
    wallet::{Activity, WalletIndex},
};

use support::{Bench, resident};

/// Watched wallets.
const WALLETS: u64 = 1_000_000;
/// Watched transactions.
const TRANSACTIONS_WATCHED: u64 = 100_000;
/// Logs of a full block.
const LOGS: u64 = 400;
/// Transactions of a full block.
const TRANSACTIONS: u64 = 180;

fn main() -> Result<(), Box<dyn Error>> {
    let bench = Bench::from_arguments();
    transactions()?;
    matching(&bench)?;
    decoding(&bench)
}

/// What watched transactions take, each with its sender, nonce and user.
fn transactions() -> io::Result<()> {
    let before = resident();
    let mut monitor = Monitor::new(MonitorOptions::new(1), CustomErrors::well_known());
    for number in 0..TRANSACTIONS_WATCHED {
        let stored = StoredWatch {
            hash: keccak256(number.to_le_bytes()),
            user: Some(format!("user-{number}")),
            account: Some((account(number), number)),
            phase: StoredPhase::Pending { reorged: false },
            since: 0,
        };
        monitor.import(stored, 0);
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = (after.saturating_sub(before)) as f64 / TRANSACTIONS_WATCHED as f64;
        let name = "watch 100,000 transactions";
        writeln!(io::stdout(), "{name:<56} {each:>9.1} bytes each")?;
    }
    black_box(monitor);
    Ok(())
}

/// A full block against a million wallets.
fn matching(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let before = resident();
    let mut index = WalletIndex::default();
    for number in 0..WALLETS {
        index.watch(account(number));
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = (after.saturating_sub(before)) as f64 / WALLETS as f64;
        writeln!(
            io::stdout(),
            "{:<56} {each:>9.1} bytes each",
            "watch a million wallets"
        )?;
    }
    for (name, offset) in [
        ("none of them watched", WALLETS),
        ("all of them watched", 0),
    ] {
        let block = block(offset)?;
        let activity = Activity::of(&block, &index);
        let name = format!(
            "match {LOGS} logs, {TRANSACTIONS} transactions, {name} ({} events)",
            activity.events.len()
        );
        bench.run(&name, 20, 1, || {
            black_box(Activity::of(black_box(&block), &index));
        })?;
    }
    Ok(())
}

fn decoding(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let block = block(0)?;
    let log = block.logs.first().ok_or("a block without logs")?;
    bench.run("decode a transfer", 2_000, 1, || {
        let data = &log.data().data;
        black_box(decode(log.address(), black_box(log.topics()), data)).ok();
    })?;
    let event =
        EventAbi::parse("event Transfer(address indexed from, address indexed to, uint256 value)")?;
    bench.run("decode a transfer by signature, to JSON", 2_000, 1, || {
        black_box(event.decode(black_box(log.topics()), &log.data().data));
    })?;
    Ok(())
}

/// Addresses that look like hashes, as real ones do.
fn account(number: u64) -> Address {
    Address::from_word(keccak256(number.to_be_bytes()))
}

/// A block whose accounts are those from `offset` on.
fn block(offset: u64) -> Result<BlockData, Box<dyn Error>> {
    let transfer = keccak256("Transfer(address,address,uint256)");
    let logs = (0..LOGS).map(|number| {
        let who = [0, 1].map(|side| account(offset + number * 2 + side).into_word());
        let value = Bytes::from(U256::from(number).to_be_bytes::<32>());
        let data = LogData::new_unchecked(vec![transfer, who[0], who[1]], value);
        Log {
            inner: alloy::primitives::Log {
                address: account(u64::MAX - number % 40),
                data,
            },
            transaction_hash: Some(B256::with_last_byte(1)),
            ..Log::default()
        }
    });
    let transactions = (0..TRANSACTIONS).map(|number| {
        serde_json::from_value::<Transaction>(json!({
            "type": "0x2", "chainId": "0x1", "nonce": "0x1", "gas": "0x5208", "value": "0x1",
            "maxFeePerGas": "0x2", "maxPriorityFeePerGas": "0x1", "input": "0x",
            "accessList": [], "r": "0x1", "s": "0x1", "yParity": "0x0", "v": "0x0",
            "hash": keccak256(number.to_be_bytes()),
            "from": account(offset + number * 3), "to": account(offset + number * 5),
            "blockHash": null, "blockNumber": null, "transactionIndex": null,
        }))
    });
    Ok(BlockData {
        block: BlockRef {
            number: 1,
            hash: B256::with_last_byte(2),
            parent: B256::with_last_byte(1),
        },
        timestamp: 1_700_000_000_000,
        base_fee: None,
        bloom: Default::default(),
        transactions: transactions.collect::<Result<_, _>>()?,
        logs: logs.collect(),
        receipts: Vec::new(),
    })
}
