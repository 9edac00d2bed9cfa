//! Wallet tracker against a scripted node.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use alloy::{
    hex,
    primitives::{Address, B256, LogData, U256, address, keccak256},
    rpc::types::Log,
    sol,
    sol_types::SolCall as _,
};
use serde_json::{Value, json};
use support::{CHAIN, Node, RECEIPT_FAULTS, account, hash, refused, transaction};
use tidewire_chain::{
    Call, ChainUpdate, ChannelEvent, RpcClient, RpcError, WalletIndex,
    wallet::{Activity, ConfirmationRules, Tracing, WalletTracker},
};
use tidewire_proto::v1::{
    BalanceSource, Direction, TransactionState, WalletUpdate, approval::Allowance,
    wallet_update::Data,
};
use tidewire_stream::Event;

const MULTICALL3: Address = address!("ca11bde05977b3631167028862be2a173976ca11");

mod interface {
    super::sol! {
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) returns (Result[] results);
        function balanceOf(address owner) returns (uint256 balance);
        function symbol() returns (string text);
    }
}

/// A node with balances by block, and one kind of token.
#[derive(Default)]
struct Scripted {
    /// By block hash and wallet.
    coins: HashMap<(B256, Address), u64>,
    /// By block hash, token and wallet.
    tokens: HashMap<(B256, Address, Address), u64>,
    nfts: Vec<Address>,
    /// Tokens whose symbol is a `bytes32`.
    old: Vec<Address>,
    has_multicall: bool,
    trace: Option<Value>,
    receipts: HashMap<B256, Result<Value, RpcError>>,
    /// A method that fails, but for calls of Multicall3, which are answered as without it.
    failing: Option<(&'static str, RpcError)>,
    /// The supply of every token.
    supply: Option<u64>,
    /// Contracts that exist only in one block.
    made_in: Vec<(Address, B256)>,
    is_down: bool,
    requests: Mutex<Vec<Vec<Call>>>,
}

impl Scripted {
    fn view(&self, block: B256, contract: Address, data: &[u8]) -> Option<Vec<u8>> {
        let made_in = self.made_in.iter().find(|(made, _)| *made == contract);
        if made_in.is_some_and(|(_, made_in)| *made_in != block) {
            return Some(Vec::new());
        }
        let selector = &data[..4];
        let is_nft = self.nfts.contains(&contract);
        if selector == &keccak256("balanceOf(address)")[..4] {
            let owner = interface::balanceOfCall::abi_decode(data).unwrap().owner;
            let amount = self.tokens.get(&(block, contract, owner));
            let amount = U256::from(amount.copied().unwrap_or(0));
            Some(amount.to_be_bytes::<32>().to_vec())
        } else if selector == &keccak256("symbol()")[..4] {
            if self.old.contains(&contract) {
                return Some(B256::right_padding_from(b"MKR").to_vec());
            }
            Some(interface::symbolCall::abi_encode_returns(&"TOK".to_owned()))
        } else if selector == &keccak256("totalSupply()")[..4] {
            self.supply
                .map(|supply| U256::from(supply).to_be_bytes::<32>().to_vec())
        } else if selector == &keccak256("decimals()")[..4] {
            (!is_nft).then(|| U256::from(6).to_be_bytes::<32>().to_vec())
        } else {
            is_nft.then(|| U256::ONE.to_be_bytes::<32>().to_vec())
        }
    }

    fn respond(&self, call: &Call) -> Result<Value, RpcError> {
        if self.is_down {
            return Err(RpcError::Unreachable {
                chain: CHAIN,
                reason: "down".to_owned(),
            });
        }
        if let Some((method, error)) = &self.failing
            && *method == call.method
            && (call.params[0]["to"] != json!(MULTICALL3)
                || matches!(error, RpcError::Unavailable { .. }))
        {
            return Err(error.clone());
        }
        let block = || {
            call.params[1]["blockHash"]
                .as_str()
                .unwrap()
                .parse::<B256>()
                .unwrap()
        };
        match call.method {
            "eth_getBalance" => {
                let wallet: Address = call.params[0].as_str().unwrap().parse().unwrap();
                let amount = self.coins.get(&(block(), wallet)).copied().unwrap_or(0);
                Ok(json!(format!("{amount:#x}")))
            }
            "eth_getTransactionReceipt" => {
                let hash: B256 = call.params[0].as_str().unwrap().parse().unwrap();
                self.receipts.get(&hash).cloned().unwrap_or(Ok(Value::Null))
            }
            "debug_traceBlockByNumber" | "trace_block" => Err(refused(-32_601, None)),
            "debug_traceBlockByHash" => self.trace.clone().ok_or_else(|| refused(-32_601, None)),
            "eth_call" => {
                let to: Address = call.params[0]["to"].as_str().unwrap().parse().unwrap();
                let data = hex::decode(call.params[0]["data"].as_str().unwrap()).unwrap();
                if to == MULTICALL3 && !self.has_multicall {
                    return Ok(json!("0x"));
                }
                if to == MULTICALL3 {
                    let calls = interface::aggregate3Call::abi_decode(&data).unwrap().calls;
                    let results = calls.iter().map(|call| {
                        let returned = self.view(block(), call.target, &call.callData);
                        interface::Result {
                            success: returned.is_some(),
                            returnData: returned.unwrap_or_default().into(),
                        }
                    });
                    let results = results.collect();
                    let encoded = interface::aggregate3Call::abi_encode_returns(&results);
                    return Ok(json!(hex::encode_prefixed(encoded)));
                }
                self.view(block(), to, &data)
                    .map(|data| json!(hex::encode_prefixed(data)))
                    .ok_or_else(|| refused(3, None))
            }
            other => panic!("{other} is not expected"),
        }
    }
}

impl RpcClient for Scripted {
    async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
        let responses = calls.iter().map(|call| self.respond(call)).collect();
        self.requests.lock().unwrap().push(calls);
        responses
    }
}

fn log(contract: Address, signature: &str, topics: &[B256], data: &[U256]) -> Log {
    let mut all = vec![keccak256(signature)];
    all.extend_from_slice(topics);
    let data: Vec<u8> = data
        .iter()
        .flat_map(|word| word.to_be_bytes::<32>())
        .collect();
    Log {
        inner: alloy::primitives::Log {
            address: contract,
            data: LogData::new_unchecked(all, data.into()),
        },
        transaction_hash: Some(hash(1)),
        ..Log::default()
    }
}

fn transfer(contract: Address, from: Address, to: Address, value: u64) -> Log {
    log(
        contract,
        "Transfer(address,address,uint256)",
        &[from.into_word(), to.into_word()],
        &[U256::from(value)],
    )
}

fn index(wallets: &[Address]) -> WalletIndex {
    let mut index = WalletIndex::default();
    for wallet in wallets {
        index.watch(*wallet);
    }
    index
}

async fn apply(
    tracker: &mut WalletTracker,
    update: &ChainUpdate,
    index: &WalletIndex,
    client: &Scripted,
) -> Vec<WalletUpdate> {
    let activity = Activity::of(&update.included, index);
    let is_watched = |wallet: &Address| index.contains(wallet);
    updates(tracker.apply(update, activity, is_watched, client, 7).await)
}

fn updates(events: Vec<ChannelEvent>) -> Vec<WalletUpdate> {
    let updates = events.into_iter().map(|event| match event.event {
        Event::WalletUpdate(update) => {
            assert_eq!(event.channel.as_str(), format!("wallet:{}", update.address));
            update
        }
        other => panic!("{other:?}"),
    });
    updates.collect()
}

#[tokio::test]
async fn transactions_and_coin_balances_are_sent_from_pending_on_and_retracted() {
    let wallets = index(&[account(1)]);
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let mut client = Scripted::default();
    let first = node.mine(&[]);
    assert!(
        apply(&mut tracker, &first, &wallets, &client)
            .await
            .is_empty()
    );
    assert!(
        client.requests.lock().unwrap().is_empty(),
        "nothing is read for a block without activity"
    );

    let submitted = transaction(hash(1), account(1), 0, account(2), 5);
    let pending = updates(tracker.apply_pending(&submitted, &wallets, 7));
    assert!(matches!(
        &pending[0].data,
        Some(Data::Transaction(sent)) if sent.status() == TransactionState::Pending
            && sent.direction() == Direction::Out && sent.value == "5"
    ));
    assert!(
        tracker.apply_pending(&submitted, &wallets, 7).is_empty(),
        "a pending transaction is sent once"
    );
    node.send(submitted.clone());
    let update = node.mine(&[hash(1)]);
    let block = update.included.block;
    let mut late = WalletTracker::new(CHAIN, Tracing::Off);
    apply(&mut late, &update, &wallets, &client).await;
    let receipt_call = Call::new("eth_getTransactionReceipt", json!([hash(1)]));
    let after_block = late.apply_pending(&submitted, &wallets, 7);
    assert!(after_block.is_empty(), "its block was sent before");
    client.receipts.insert(hash(1), node.respond(&receipt_call));
    client.coins.insert((block.parent, account(1)), 100);
    client.coins.insert((block.hash, account(1)), 94);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    assert!(matches!(
        &sent[0].data,
        Some(Data::Transaction(sent)) if sent.status() == TransactionState::Confirming
            && sent.block_number == Some(2)
    ));
    let Some(Data::Balance(change)) = &sent[1].data else {
        panic!("{sent:?}");
    };
    assert_eq!(change.previous.as_deref(), Some("100"));
    assert_eq!(
        (change.current.as_str(), change.delta.as_str()),
        ("94", "-6")
    );
    assert_eq!(change.how(), BalanceSource::Balance);

    let reorg = node.reorg(1, &[]);
    apply(&mut late, &reorg, &wallets, &client).await;
    let again = late.apply_pending(&submitted, &wallets, 7);
    assert_eq!(again.len(), 1, "the transaction is pending again");
    let retracted = apply(&mut tracker, &reorg, &wallets, &client).await;
    assert!(retracted.iter().all(|update| update.removed));
    let data: Vec<_> = retracted
        .into_iter()
        .rev()
        .map(|update| update.data)
        .collect();
    assert_eq!(
        data,
        sent.into_iter()
            .map(|update| update.data)
            .collect::<Vec<_>>()
    );
}

/// The statuses of the transaction updates.
fn statuses(updates: &[WalletUpdate]) -> Vec<TransactionState> {
    let statuses = updates.iter().filter_map(|update| match &update.data {
        Some(Data::Transaction(sent)) => Some(sent.status()),
        _ => None,
    });
    statuses.collect()
}

#[tokio::test]
async fn a_transaction_without_its_own_receipt_is_unknown_until_it_has_one() {
    use TransactionState::{Confirmed, Confirming, Failed, Finalized, Unknown};
    let rules = ConfirmationRules {
        required: 2,
        finality_depth: 4,
        reorg_limit: 10,
    };
    for fault in RECEIPT_FAULTS {
        for (is_failing, blocks_later, expected) in [
            (true, 1, vec![Failed]),
            (true, 6, vec![Failed]),
            (false, 0, vec![Confirming, Confirmed]),
            (false, 1, vec![Confirming, Confirmed]),
            (false, 2, vec![Confirmed]),
            (false, 6, vec![Finalized]),
        ] {
            let wallets = index(&[account(1)]);
            let mut node = Node::default();
            let mut tracker = WalletTracker::new(CHAIN, Tracing::Off).with_rules(rules);
            node.mine(&[]);
            node.send(transaction(hash(1), account(1), 0, account(2), 5));
            if is_failing {
                node.failing.push(hash(1));
            }
            let mined = node.mine(&[hash(1)]);
            let call = Call::new("eth_getTransactionReceipt", json!([hash(1)]));
            let receipt = node.respond(&call).unwrap();
            let mut client = Scripted::default();
            client.receipts.insert(hash(1), fault(receipt.clone()));
            let mut sent = apply(&mut tracker, &mined, &wallets, &client).await;
            for _ in 1..blocks_later {
                let update = node.mine(&[]);
                sent.extend(apply(&mut tracker, &update, &wallets, &client).await);
            }
            assert_eq!(statuses(&sent), [Unknown]);
            client.receipts.insert(hash(1), Ok(receipt));
            let update = node.mine(&[]);
            let told = apply(&mut tracker, &update, &wallets, &client).await;
            assert_eq!(statuses(&told), expected, "after {blocks_later} blocks");
            // A reorg retracts all of it, the last first.
            let mut later = told;
            for _ in 0..2 {
                let update = node.mine(&[]);
                later.extend(apply(&mut tracker, &update, &wallets, &client).await);
            }
            let mut all = [statuses(&sent), statuses(&later)].concat();
            all.reverse();
            let reorg = node.reorg(node.blocks.len() - 1, &[]);
            let retracted = apply(&mut tracker, &reorg, &wallets, &client).await;
            assert_eq!(statuses(&retracted), all);
            assert!(retracted.iter().all(|update| update.removed));
        }
    }
}

#[tokio::test]
async fn token_balances_are_read_at_the_block_in_few_requests() {
    for has_multicall in [true, false] {
        let (token, old) = (account(0xAA), account(0xAB));
        let wallets = index(&[account(1), account(2)]);
        let mut node = Node::default();
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let update = node.mine_logs(vec![
            transfer(token, account(1), account(2), 5),
            transfer(old, account(9), account(1), 1),
            // Neither party is watched.
            transfer(token, account(8), account(9), 5),
        ]);
        let block = update.included.block;
        let mut client = Scripted {
            has_multicall,
            old: vec![old],
            ..Scripted::default()
        };
        for (wallet, token, before, after) in [(1, token, 10, 5), (2, token, 0, 5), (1, old, 3, 4)]
        {
            let wallet = account(wallet);
            client.tokens.insert((block.parent, token, wallet), before);
            client.tokens.insert((block.hash, token, wallet), after);
        }
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        let mut changes = Vec::new();
        for update in sent {
            let Some(Data::Balance(change)) = update.data else {
                panic!("{:?}", update.data);
            };
            assert_eq!(change.decimals, Some(6));
            changes.push((change.symbol.unwrap(), change.current, change.delta));
        }
        let own = |symbol: &str, now: &str, delta: &str| {
            (symbol.to_owned(), now.to_owned(), delta.to_owned())
        };
        assert_eq!(
            changes,
            [
                own("TOK", "5", "-5"),
                own("MKR", "4", "1"),
                own("TOK", "5", "5")
            ]
        );
        let requests = client.requests.lock().unwrap().len();
        assert_eq!(requests, if has_multicall { 3 } else { 6 });
    }
}

#[tokio::test]
async fn nft_transfers_and_approvals_are_sent_and_an_unindexed_id_is_no_amount() {
    let (nft, many, token) = (account(0xAA), account(0xAB), account(0xAC));
    let wallets = index(&[account(1)]);
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let me = account(1).into_word();
    let other = account(2).into_word();
    let huge = U256::MAX - U256::ONE;
    let word = U256::from::<u64>;
    let batch = "TransferBatch(address,address,address,uint256[],uint256[])";
    let ends = [other, other, me];
    let update = Node::default().mine_logs(vec![
        log(
            nft,
            "Transfer(address,address,uint256)",
            &[other, me, huge.into()],
            &[],
        ),
        transfer(nft, account(2), account(1), 77),
        log(many, batch, &ends, &[64, 160, 2, 1, 2, 2, 5, 6].map(word)),
        log(many, batch, &ends, &[64, 96, 0, 0].map(word)),
        // A log without its data.
        log(
            token,
            "Approval(address,address,uint256)",
            &[me, other],
            &[],
        ),
        log(
            token,
            "Approval(address,address,uint256)",
            &[me, other],
            &[U256::MAX],
        ),
        log(
            many,
            "ApprovalForAll(address,address,bool)",
            &[me, other],
            &[U256::ONE],
        ),
    ]);
    let client = Scripted {
        nfts: vec![nft],
        has_multicall: true,
        ..Scripted::default()
    };
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    let sent: Vec<_> = sent.into_iter().filter_map(|update| update.data).collect();
    let ids = sent.iter().filter_map(|data| match data {
        Data::Nft(nft) => Some((nft.token_id.clone(), nft.amount.clone())),
        _ => None,
    });
    let ids: Vec<_> = ids.collect();
    let pair = |id: &str, amount: &str| (id.to_owned(), amount.to_owned());
    assert_eq!(
        ids,
        [
            pair(&huge.to_string(), "1"),
            pair("77", "1"),
            pair("1", "5"),
        ]
    );
    let items = sent.iter().find_map(|data| match data {
        Data::Nft(nft) if nft.standard == "erc1155" => Some(nft.items.clone()),
        _ => None,
    });
    let items = items.unwrap().into_iter();
    let items: Vec<_> = items.map(|item| (item.token_id, item.amount)).collect();
    assert_eq!(items, [pair("1", "5"), pair("2", "6")]);
    let approvals: Vec<_> = sent
        .into_iter()
        .filter_map(|data| match data {
            Data::Approval(approval) => Some(approval),
            _ => None,
        })
        .collect();
    assert_eq!(approvals.len(), 2);
    assert!(approvals.iter().all(|approval| approval.unlimited));
    assert_eq!(approvals[1].allowance, Some(Allowance::ApprovedAll(true)));
}

#[tokio::test]
async fn a_batch_of_many_ids_is_a_bounded_number_of_updates() {
    let wallets = index(&[account(1)]);
    for (count, pages, left_out) in [(1_u64, 1, None), (2, 1, None), (3_000, 4, Some(1_976))] {
        let numbers = |from: u64| (0..count).map(move |id| U256::from(from + id));
        let data: Vec<_> = [64, 96 + 32 * count, count]
            .map(U256::from)
            .into_iter()
            .chain(numbers(10))
            .chain([U256::from(count)])
            .chain(numbers(20))
            .collect();
        let [me, other] = [account(1).into_word(), account(2).into_word()];
        let batch = "TransferBatch(address,address,address,uint256[],uint256[])";
        let spam = log(account(0xAB), batch, &[other, other, me], &data);
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let update = Node::default().mine_logs(vec![spam]);
        let sent = apply(&mut tracker, &update, &wallets, &Scripted::default()).await;
        let moved: Vec<_> = sent
            .into_iter()
            .map(|update| match update.data {
                Some(Data::Nft(nft)) => nft,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(moved.len(), pages, "{count} ids");
        assert_eq!(
            (moved[0].token_id.as_str(), moved[0].amount.as_str()),
            ("10", "20")
        );
        let listed: usize = moved.iter().map(|nft| nft.items.len()).sum();
        assert_eq!(
            listed,
            if count == 1 {
                0
            } else {
                count.min(1_024) as usize
            }
        );
        assert_eq!(moved[pages - 1].left_out, left_out);
    }
}

#[tokio::test]
async fn an_approval_is_judged_by_its_contract_and_by_the_supply() {
    let (token, nft) = (account(0xAC), account(0xAA));
    let wallets = index(&[account(1)]);
    let [me, other] = [account(1).into_word(), account(2).into_word()];
    let approval = |contract: Address, value: U256| {
        log(
            contract,
            "Approval(address,address,uint256)",
            &[me, other],
            &[value],
        )
    };
    let number = U256::from::<u64>;
    let cases = [
        (approval(nft, number(77)), false, "erc721"),
        (approval(token, number(100)), false, "erc20"),
        (approval(token, number(101)), true, "erc20"),
        (approval(token, U256::ONE << 255), true, "erc20"),
    ];
    for (approval, unlimited, standard) in cases {
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let client = Scripted {
            nfts: vec![nft],
            supply: Some(100),
            has_multicall: true,
            ..Scripted::default()
        };
        let update = Node::default().mine_logs(vec![approval]);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        let Some(Data::Approval(approval)) = &sent[0].data else {
            panic!("{sent:?}");
        };
        assert_eq!(
            (approval.unlimited, approval.standard.as_str()),
            (unlimited, standard)
        );
        let is_id = matches!(approval.allowance, Some(Allowance::TokenId(_)));
        assert_eq!(is_id, standard == "erc721");
    }
}

#[tokio::test]
async fn a_transaction_from_an_address_that_imitates_a_recipient_is_suspicious() {
    let wallets = index(&[account(1)]);
    let recipient = address!("abcd000000000000000000000000000000001234");
    let alike = address!("abcdffffffffffffffffffffffffffffffff1234");
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let client = Scripted::default();
    let mut suspicions = Vec::new();
    for (number, from, to, value) in [
        (1, account(1), recipient, 5),
        (2, alike, account(1), 1),
        (3, account(9), account(1), 0),
        (4, account(9), account(1), 1),
    ] {
        node.send(transaction(hash(number), from, number, to, value));
        let update = node.mine(&[hash(number)]);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        suspicions.push(sent[0].suspicious.clone().unwrap_or_default());
    }
    assert_eq!(suspicions[0], "");
    assert!(
        suspicions[1].contains("looks like 0xabcd0000"),
        "{suspicions:?}"
    );
    assert_eq!(suspicions[2], "it moves nothing");
    assert_eq!(suspicions[3], "");
}

#[tokio::test]
async fn coins_that_a_contract_moves_are_found_by_a_trace() {
    let wallets = index(&[account(7)]);
    let mut node = Node::default();
    node.send(transaction(hash(1), account(1), 0, account(2), 5));
    let update = node.mine(&[hash(1)]);
    let block = update.included.block;
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let inner = json!({"type": "CALL", "from": account(2), "to": account(7), "value": "0x5"});
    let mut client = Scripted {
        trace: Some(json!([{"result": {
            "type": "CALL", "from": account(1), "to": account(2), "value": "0x5",
            "calls": [inner],
        }}])),
        ..Scripted::default()
    };
    client.coins.insert((block.hash, account(7)), 5);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    assert!(matches!(
        &sent[..],
        [WalletUpdate { data: Some(Data::Balance(change)), .. }]
            if change.how() == BalanceSource::Trace && change.delta == "5"
    ));
}

#[tokio::test]
async fn a_refused_balance_leaves_a_wallet_unread_and_a_revert_does_not() {
    let wallets = index(&[account(1)]);
    let unavailable = || RpcError::Unavailable {
        chain: CHAIN,
        reason: "error -32603: Internal error".to_owned(),
    };
    for (method, error, is_unread) in [
        ("eth_getBalance", unavailable(), true),
        ("eth_getBalance", refused(-32_602, None), true),
        ("eth_call", unavailable(), true),
        ("eth_call", refused(3, None), false),
    ] {
        let mut node = Node::default();
        node.send(transaction(hash(1), account(1), 0, account(2), 5));
        let mut update = node.mine(&[hash(1)]);
        let block = Arc::make_mut(&mut update.included);
        block
            .logs
            .push(transfer(account(0xAA), account(2), account(1), 5));
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let client = Scripted {
            failing: Some((method, error)),
            ..Scripted::default()
        };
        apply(&mut tracker, &update, &wallets, &client).await;
        let unread = tracker.take_unread();
        assert_eq!(unread.contains(&account(1)), is_unread, "{method}");
    }
}

#[tokio::test]
async fn a_symbol_that_could_not_be_read_is_read_again_later() {
    let (token, wallets) = (account(0xAA), index(&[account(1)]));
    let mut node = Node::default();
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let mut client = Scripted {
        failing: Some(("eth_call", refused(3, None))),
        ..Scripted::default()
    };
    for (now_ms, expected) in [(0, None), (59_000, None), (61_000, Some("TOK"))] {
        let update = node.mine_logs(vec![transfer(token, account(2), account(1), 5)]);
        let block = update.included.block;
        let amount = block.number;
        client
            .tokens
            .insert((block.hash, token, account(1)), amount);
        let activity = Activity::of(&update.included, &wallets);
        let is_watched = |wallet: &Address| wallets.contains(wallet);
        let events = tracker.apply(&update, activity, is_watched, &client, now_ms);
        let sent = updates(events.await);
        // The node recovers, but the failure is remembered for a minute.
        client.failing = None;
        let symbol = sent.iter().find_map(|update| match &update.data {
            Some(Data::Balance(change)) => change.symbol.clone(),
            _ => None,
        });
        assert_eq!(symbol.as_deref(), expected, "at {now_ms}");
    }
}

#[tokio::test]
async fn a_withdrawal_of_a_validator_is_sent() {
    let wallets = index(&[account(1), account(2)]);
    let mut node = Node::default();
    node.send(transaction(hash(1), account(2), 0, account(3), 5));
    let mut update = node.mine(&[hash(1)]);
    let block = Arc::make_mut(&mut update.included);
    block.withdrawals = vec![account(1), account(2), account(9)];
    let block = block.block;
    let mut client = Scripted::default();
    for (wallet, before, after) in [(1, 10, 17), (2, 10, 12)] {
        client.coins.insert((block.parent, account(wallet)), before);
        client.coins.insert((block.hash, account(wallet)), after);
    }
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    let changes: Vec<_> = sent
        .iter()
        .filter_map(|update| match &update.data {
            Some(Data::Balance(change)) => Some((change.delta.as_str(), change.how())),
            _ => None,
        })
        .collect();
    // A wallet with a transaction of its own is read for that.
    let expected = [
        ("7", BalanceSource::Withdrawal),
        ("2", BalanceSource::Balance),
    ];
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn a_token_whose_constructor_mints_to_a_wallet_is_sent() {
    for has_multicall in [true, false] {
        let (token, wallets) = (account(0xAA), index(&[account(1)]));
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let mint = transfer(token, Address::ZERO, account(1), 5);
        let update = Node::default().mine_logs(vec![mint]);
        let block = update.included.block;
        let mut client = Scripted {
            has_multicall,
            made_in: vec![(token, block.hash)],
            ..Scripted::default()
        };
        client.tokens.insert((block.hash, token, account(1)), 5);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        assert!(
            matches!(
                &sent[..],
                [WalletUpdate { data: Some(Data::Balance(change)), .. }]
                    if change.previous.as_deref() == Some("0") && change.delta == "5"
            ),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn a_node_that_is_down_leaves_wallets_unread() {
    let wallets = index(&[account(1)]);
    let update =
        Node::default().mine_logs(vec![transfer(account(0xAA), account(2), account(1), 5)]);
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Auto);
    let client = Scripted {
        is_down: true,
        ..Scripted::default()
    };
    assert!(
        apply(&mut tracker, &update, &wallets, &client)
            .await
            .is_empty()
    );
    // The wallet's channel has a gap.
    assert!(tracker.take_unread().into_iter().eq([account(1)]));
    // It is reported once.
    assert!(tracker.take_unread().is_empty());
    let up = Scripted::default();
    apply(&mut tracker, &update, &wallets, &up).await;
    assert!(tracker.take_unread().is_empty());
}
