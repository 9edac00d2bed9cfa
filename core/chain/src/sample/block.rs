//! Sample blocks: headers, transactions and receipts that pass every proof.
//!
//! No key signs the transactions. A signature is not proved, since the node reports the sender.

use std::collections::BTreeMap;

use alloy::{
    consensus::{
        EMPTY_OMMER_ROOT_HASH, Eip658Value, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom,
        SignableTransaction as _, Transaction as _, TxEip1559, TxEnvelope,
        proofs::{calculate_receipt_root, ordered_trie_root_encoded},
        transaction::Recovered,
    },
    eips::Encodable2718 as _,
    primitives::{Address, B256, Bytes, Log as LogData, Signature, TxKind, U256, keccak256},
    rpc::types::{Header as HeaderJson, Log, Transaction, TransactionReceipt},
    sol,
    sol_types::{SolCall as _, SolEvent as _},
};
use serde::{Deserialize, Serialize};

use super::{CHAIN_ID, TOKEN};

sol! {
    function transfer(address to, uint256 amount) external returns (bool);
    event Transfer(address indexed from, address indexed to, uint256 value);
}

/// The contract of a shop that is always closed: each call of it fails.
pub(crate) const SHOP: Address =
    alloy::primitives::address!("5a3b1e00000000000000000000000000000000d0");

/// Gas of a transfer of coins, of a transfer of tokens, and of a call that fails.
const COIN_GAS: u64 = 21_000;
const TOKEN_GAS: u64 = 52_000;
const SHOP_GAS: u64 = 31_000;

const GAS_LIMIT: u64 = 30_000_000;

/// The content of an account after a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) nonce: u64,
    pub(crate) coins: U256,
    pub(crate) tokens: U256,
}

/// All accounts after a block.
pub(crate) type Accounts = BTreeMap<Address, Account>;

/// A block, and the accounts after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SampleBlock {
    pub(crate) header: HeaderJson,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) receipts: Vec<TransactionReceipt>,
    pub(crate) accounts: Accounts,
}

/// The action of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Pays coins.
    Pay(Address, U256),
    /// Pays tokens.
    PayTokens(Address, U256),
    /// Calls the shop, which fails.
    Buy,
}

/// A transaction of `from`. `serial` makes it differ from every other one.
pub(crate) fn transaction(
    (from, nonce): (Address, u64),
    action: Action,
    (max_fee, tip): (u128, u128),
    serial: u64,
) -> Transaction {
    let (to, value, input) = match action {
        Action::Pay(to, value) => (to, value, Bytes::new()),
        Action::PayTokens(to, amount) => {
            let call = transferCall { to, amount };
            (TOKEN, U256::ZERO, call.abi_encode().into())
        }
        // `buy()`
        Action::Buy => (
            SHOP,
            U256::ZERO,
            Bytes::from_static(&[0xa6, 0xf2, 0xae, 0x3a]),
        ),
    };
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(to),
        value,
        access_list: Vec::new().into(),
        input,
    };
    let made_up = |salt: u8| {
        let seed = [&serial.to_be_bytes()[..], &[salt]].concat();
        // Half of the group's order at most, as every chain requires of `s`.
        U256::from_be_bytes(keccak256(seed).0) >> 2
    };
    let signature = Signature::new(made_up(1), made_up(2), false);
    let signed = TxEnvelope::Eip1559(transaction.into_signed(signature));
    Transaction {
        inner: Recovered::new_unchecked(signed, from),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: None,
        block_timestamp: None,
    }
}

/// The effect of a transaction on the accounts.
struct Effect {
    succeeds: bool,
    gas: u64,
    logs: Vec<LogData>,
}

/// Executes a transaction. None if its nonce is not the next one, or the account is too poor.
fn execute(accounts: &mut Accounts, transaction: &Transaction, price: u128) -> Option<Effect> {
    let from = transaction.inner.signer();
    let (to, value) = (transaction.to()?, transaction.value());
    let tokens = transferCall::abi_decode(transaction.input()).ok();
    let tokens = tokens.filter(|_| to == TOKEN);
    let (gas, succeeds) = match (&tokens, to == SHOP) {
        (Some(_), _) => (TOKEN_GAS, true),
        (None, true) => (SHOP_GAS, false),
        (None, false) => (COIN_GAS, true),
    };
    let fee = U256::from(gas) * U256::from(price);
    let sender = accounts.entry(from).or_default();
    let amount = tokens.as_ref().map_or(U256::ZERO, |call| call.amount);
    if sender.nonce != transaction.nonce() || sender.coins < fee + value || sender.tokens < amount {
        return None;
    }
    sender.nonce += 1;
    sender.coins -= fee;
    let mut logs = Vec::new();
    if let Some(call) = tokens {
        sender.tokens -= call.amount;
        accounts.entry(call.to).or_default().tokens += call.amount;
        let event = Transfer {
            from,
            to: call.to,
            value: call.amount,
        };
        logs.push(LogData {
            address: TOKEN,
            data: event.encode_log_data(),
        });
    } else if succeeds {
        sender.coins -= value;
        accounts.entry(to).or_default().coins += value;
    }
    Some(Effect {
        succeeds,
        gas,
        logs,
    })
}

/// The parts that a new block follows from.
pub(crate) struct BlockSeed {
    pub(crate) parent: Option<B256>,
    pub(crate) number: u64,
    /// In seconds since the Unix epoch.
    pub(crate) timestamp: u64,
    pub(crate) base_fee: u64,
    /// Distinguishes blocks of the same height.
    pub(crate) serial: u64,
    pub(crate) accounts: Accounts,
}

/// Makes a block of the waiting transactions that can be executed, and removes them.
pub(crate) fn make(seed: BlockSeed, waiting: &mut Vec<Transaction>) -> SampleBlock {
    let BlockSeed {
        parent,
        number,
        timestamp,
        base_fee,
        serial,
        mut accounts,
    } = seed;
    let mut executed = Vec::new();
    // A transaction may wait for another one of its sender, which comes later in the list.
    loop {
        let before = executed.len();
        waiting.retain(|transaction| {
            let price = transaction.effective_gas_price(Some(base_fee));
            let effect = execute(&mut accounts, transaction, price);
            let is_executed = effect.is_some();
            executed.extend(effect.map(|effect| (transaction.clone(), effect, price)));
            !is_executed
        });
        if executed.len() == before {
            break;
        }
    }
    let encoded: Vec<_> = executed
        .iter()
        .map(|(transaction, ..)| transaction.inner.inner().encoded_2718())
        .collect();
    let mut gas_used = 0;
    let envelopes: Vec<ReceiptEnvelope<LogData>> = executed
        .iter()
        .map(|(_, effect, _)| {
            gas_used += effect.gas;
            let receipt = Receipt {
                status: Eip658Value::Eip658(effect.succeeds),
                cumulative_gas_used: gas_used,
                logs: effect.logs.clone(),
            };
            ReceiptEnvelope::Eip1559(ReceiptWithBloom::from(receipt))
        })
        .collect();
    let mut bloom = alloy::primitives::Bloom::ZERO;
    for envelope in &envelopes {
        bloom |= *envelope.logs_bloom();
    }
    let inner = Header {
        parent_hash: parent.unwrap_or_default(),
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        state_root: keccak256([b"state".as_slice(), &serial.to_be_bytes()].concat()),
        transactions_root: ordered_trie_root_encoded(&encoded),
        receipts_root: calculate_receipt_root(&envelopes),
        logs_bloom: bloom,
        number,
        gas_limit: GAS_LIMIT,
        gas_used,
        timestamp,
        extra_data: Bytes::from(format!("sample {serial}").into_bytes()),
        base_fee_per_gas: Some(base_fee),
        ..Header::default()
    };
    let header = HeaderJson::new(inner);
    let (hash, number) = (Some(header.hash), Some(number));
    let mut transactions = Vec::new();
    let mut receipts = Vec::new();
    let mut log_index = 0..;
    let both = (0..).zip(executed.into_iter().zip(envelopes));
    for (index, ((mut transaction, effect, price), envelope)) in both {
        transaction.block_hash = hash;
        transaction.block_number = number;
        transaction.transaction_index = Some(index);
        transaction.effective_gas_price = Some(price);
        let transaction_hash = *transaction.inner.tx_hash();
        receipts.push(TransactionReceipt {
            inner: envelope.map_logs(|inner| Log {
                inner,
                block_hash: hash,
                block_number: number,
                block_timestamp: Some(timestamp),
                transaction_hash: Some(transaction_hash),
                transaction_index: Some(index),
                log_index: log_index.next(),
                removed: false,
            }),
            transaction_hash,
            transaction_index: Some(index),
            block_hash: hash,
            block_number: number,
            gas_used: effect.gas,
            effective_gas_price: price,
            blob_gas_used: None,
            blob_gas_price: None,
            from: transaction.inner.signer(),
            to: transaction.to(),
            contract_address: None,
        });
        transactions.push(transaction);
    }
    SampleBlock {
        header,
        transactions,
        receipts,
        accounts,
    }
}
