//! Benches of the chain engine without a node: the cost of one block.
//!
//! They verify a block against its hashes, match it against a million watched wallets and 100,000
//! event filters, and decode its logs.
//!
//! ```text
//! cargo bench -p tidewire-chain                   # times, and memory on Linux
//! cargo bench -p tidewire-chain -- decode         # only benches with `decode` in their name
//! ```

mod support;

use std::{
    error::Error,
    hint::black_box,
    io::{self, Write as _},
};

use alloy::{
    consensus::{
        Header,
        proofs::{calculate_receipt_root, calculate_transaction_root},
    },
    eips::Encodable2718 as _,
    primitives::{Address, B256, Bytes, LogData, U256, keccak256},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde_json::{json, value::to_raw_value};
use tidewire_chain::{
    BlockData, BlockRef, ChainUpdate, WalletIndex,
    abi::EventAbi,
    decode::{CustomErrors, decode},
    events::{EventTracker, Filter},
    proof,
    transaction::{StoredPhase, StoredWatch, TransactionOptions, TransactionTracker},
    wallet::Activity,
};

use support::{Bench, resident};
use tidewire_proto::v1::EventFilter;

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
    proving(&bench)?;
    matching(&bench)?;
    filtering(&bench)?;
    decoding(&bench)
}

/// The memory of watched transactions, each with its sender, nonce and user.
fn transactions() -> io::Result<()> {
    let before = resident();
    let mut tracker =
        TransactionTracker::new(TransactionOptions::new(1), CustomErrors::well_known());
    for number in 0..TRANSACTIONS_WATCHED {
        let stored = StoredWatch {
            abi: Vec::new(),
            hash: keccak256(number.to_le_bytes()),
            user: Some(format!("user-{number}")),
            further_users: Vec::new(),
            rules: false,
            only_rules: false,
            account: Some((account(number), number)),
            phase: StoredPhase::Pending { reorged: false },
            since: 0,
        };
        tracker.import(stored, 0);
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = (after.saturating_sub(before)) as f64 / TRANSACTIONS_WATCHED as f64;
        let name = "watch 100,000 transactions";
        writeln!(io::stdout(), "{name:<56} {each:>9.1} bytes each")?;
    }
    black_box(tracker);
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

/// A full block against its hashes.
fn proving(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let header = Header {
        number: 1,
        extra_data: Bytes::from_static(b"a header of these days"),
        base_fee_per_gas: Some(7),
        withdrawals_root: Some(B256::ZERO),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(B256::ZERO),
        ..Header::default()
    };
    let (raw, hash) = (to_raw_value(&header)?, header.hash_slow());
    bench.run("hold a header against its hash", 2_000, 1, || {
        black_box(proof::header(black_box(&raw), hash)).ok();
    })?;
    let block = block(0)?;
    let plain: Vec<_> = block
        .transactions
        .iter()
        .map(|of| of.inner.inner().clone())
        .collect();
    let root = calculate_transaction_root(&plain);
    proof::transactions(&block.transactions, root)?;
    let name = format!("hold {TRANSACTIONS} transactions against their root");
    bench.run(&name, 20, 1, || {
        black_box(proof::transactions(black_box(&block.transactions), root)).ok();
    })?;
    let receipts = receipts(&block)?;
    let plain = receipts
        .iter()
        .map(|of| of.inner.clone().map_logs(|log| log.inner));
    let root = calculate_receipt_root(&plain.collect::<Vec<_>>());
    proof::receipts(&receipts, root)?;
    let name = format!("hold {TRANSACTIONS} receipts, {LOGS} logs against their root");
    bench.run(&name, 20, 1, || {
        black_box(proof::receipts(black_box(&receipts), root)).ok();
    })?;
    Ok(())
}

/// A full block against many filters of events.
fn filtering(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let included = std::sync::Arc::new(block(0)?);
    let update = ChainUpdate {
        chain: 1,
        retracted: Vec::new(),
        included,
        finalized: None,
    };
    for count in [10, 10_000, 100_000] {
        let before = resident();
        let mut tracker = EventTracker::new(1);
        for number in 1..count {
            tracker.add(filter(WALLETS + number, number % 4)?)?;
        }
        if count == 100_000
            && let (Some(before), Some(after)) = (before, resident())
        {
            let each = (after.saturating_sub(before)) as f64 / count as f64;
            let name = "watch 100,000 filters of events";
            writeln!(io::stdout(), "{name:<56} {each:>9.1} bytes each")?;
        }
        bench.run(
            &format!("match {LOGS} logs, {count} filters, none of them meant"),
            20,
            1,
            || {
                black_box(tracker.apply(black_box(&update)));
            },
        )?;
        // A filter that matches a log.
        tracker.add(filter(0, 1)?)?;
        bench.run(
            &format!("match {LOGS} logs, {count} filters, one of them meant"),
            20,
            1,
            || {
                black_box(tracker.apply(black_box(&update)));
            },
        )?;
    }
    Ok(())
}

/// A filter by contract, by topics, or by both, as most clients use.
fn filter(number: u64, kind: u64) -> Result<Filter, Box<dyn Error>> {
    let transfer = keccak256("Transfer(address,address,uint256)").to_string();
    let contract = format!("{:?}", account(u64::MAX - number));
    let party = account(number).into_word().to_string();
    let (addresses, topics) = match kind {
        0 => (vec![contract], Vec::new()),
        1 => (Vec::new(), vec![transfer, party]),
        2 => (vec![contract], vec![transfer, String::new(), party]),
        _ => (Vec::new(), vec![party]),
    };
    let filter = EventFilter {
        addresses,
        topics,
        abi: Vec::new(),
    };
    Ok(Filter::parse(&filter)?)
}

/// The receipts of a block, with its logs.
fn receipts(block: &BlockData) -> Result<Vec<TransactionReceipt>, Box<dyn Error>> {
    let count = block.transactions.len();
    let receipts = block.transactions.iter().enumerate().map(|(place, transaction)| {
        let logs = block.logs.iter().skip(place).step_by(count);
        let logs: Vec<_> = logs.cloned().collect();
        serde_json::from_value(json!({
            "type": "0x2", "status": "0x1", "cumulativeGasUsed": "0x5208", "gasUsed": "0x5208",
            "logs": logs, "logsBloom": alloy::primitives::logs_bloom(logs.iter().map(|log| &log.inner)),
            "transactionHash": transaction.inner.tx_hash(), "transactionIndex": "0x0",
            "blockHash": block.block.hash, "blockNumber": "0x1", "effectiveGasPrice": "0x1",
            "from": Address::ZERO, "to": Address::ZERO, "contractAddress": null,
        }))
    });
    Ok(receipts.collect::<Result<_, _>>()?)
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

/// An address with evenly spread bytes, like a real one.
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
    let transactions = (0..TRANSACTIONS).map(|number| -> Result<Transaction, Box<dyn Error>> {
        let mut transaction = json!({
            "type": "0x2", "chainId": "0x1", "nonce": "0x1", "gas": "0x5208", "value": "0x1",
            "maxFeePerGas": "0x2", "maxPriorityFeePerGas": "0x1", "input": "0x",
            "accessList": [], "r": "0x1", "s": "0x1", "yParity": "0x0", "v": "0x0",
            "hash": keccak256(number.to_be_bytes()),
            "from": account(offset + number * 3), "to": account(offset + number * 5),
            "blockHash": null, "blockNumber": null, "transactionIndex": null,
        });
        let read: Transaction = serde_json::from_value(transaction.clone())?;
        transaction["hash"] = json!(keccak256(read.inner.inner().encoded_2718()));
        Ok(serde_json::from_value(transaction)?)
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
        withdrawals: Vec::new(),
    })
}
