//! Notifications of chains: turns the notices of the chain engine into notifications of the hub.
//!
//! The engine passes a notice on until the hub has stored it, under the same idempotency key each
//! time. So each user is notified once, also if the server is killed in between. All notices of one
//! transaction have the same collapse key: the newest replaces the one before in the inbox.

use std::{collections::HashMap, fmt::Debug};

use serde_json::{Value, json};
use tidewire_chain::{
    ChainConfig,
    notice::{
        Grouping, Notice, NoticeSink, NoticeState, NoticeTopic, SinkFuture, SinkUnavailable,
        StoredNotice,
    },
};
use tidewire_proto::v1::{
    ErrorCode, Notification, NotificationType, NotifyRequest, Priority, notify_result,
};
use tidewire_service::NotifyRpc;
use tidewire_stream::UserId;

/// Sender of the notifications. No token has this subject, because a space is not allowed in
/// one: so no back end can use the same idempotency keys.
const SENDER: &str = "chain engine";

/// Decimals of the coin of every EVM chain.
const COIN_DECIMALS: u32 = 18;

/// Decimals beyond which an amount is written in its smallest unit: no honest token has more.
const MAX_DECIMALS: u32 = 36;

/// Longest reason of a failure in a text, in characters.
const MAX_REASON: usize = 200;

/// Bytes of the user in a key: the rest of it takes up to 175 of the 255 that a key may have.
const SHARED_KEY_USER: usize = 80;

/// The names of a chain in texts.
#[derive(Debug, Clone)]
struct ChainNames {
    label: String,
    coin: Option<String>,
}

/// The sink of the chain engine's notices.
pub(crate) struct ChainNotifications {
    service: NotifyRpc,
    chains: HashMap<u64, ChainNames>,
    /// Whether other nodes send to the same hub.
    is_shared: bool,
}

impl ChainNotifications {
    /// A sink that sends to the hub of `service`, once that is open here or on another node.
    /// `is_shared` says whether other nodes send to it too.
    pub(crate) fn new(service: &NotifyRpc, chains: &[ChainConfig], is_shared: bool) -> Self {
        let names = |chain: &ChainConfig| ChainNames {
            label: chain.label(),
            coin: chain.coin().map(str::to_owned),
        };
        Self {
            service: service.clone(),
            chains: chains.iter().map(|one| (one.id, names(one))).collect(),
            is_shared,
        }
    }

    async fn send(&self, notices: Vec<StoredNotice>) -> Result<(), SinkUnavailable> {
        let requests = notices.iter().map(|stored| self.request(stored)).collect();
        let sender = UserId::new(SENDER);
        let sent = self.service.notify_batch_as(&sender, requests).await;
        let results = sent.map_err(|error| SinkUnavailable(error.message().to_owned()))?;
        for result in results {
            let Some(notify_result::Result::Error(error)) = result.result else {
                continue;
            };
            match error.code() {
                ErrorCode::Unavailable => return Err(SinkUnavailable(error.message)),
                // A newer version may write another text under a key that was used before.
                ErrorCode::FailedPrecondition => {}
                _ => tracing::error!(
                    error = error.message,
                    "a notification of a chain is refused"
                ),
            }
        }
        Ok(())
    }

    fn request(&self, stored: &StoredNotice) -> NotifyRequest {
        NotifyRequest {
            user: Some(stored.notice.user.clone()),
            notification: Some(self.notification(&stored.notice)),
            idempotency_key: Some(match self.is_shared {
                true => shared_key(stored),
                false => stored.key(),
            }),
            ..NotifyRequest::default()
        }
    }

    fn notification(&self, notice: &Notice) -> Notification {
        let unknown = || ChainNames {
            label: format!("chain {}", notice.chain),
            coin: None,
        };
        let names = self.chains.get(&notice.chain).cloned();
        let names = names.unwrap_or_else(unknown);
        let amount = amount(notice, &names);
        let (title, body) = match notice.topic {
            NoticeTopic::Payment => payment_text(notice, &names, amount.as_deref()),
            NoticeTopic::Transaction => transaction_text(notice, &names, amount.as_deref()),
        };
        let (kind, priority) = match (notice.state, notice.topic) {
            (NoticeState::Confirmed, NoticeTopic::Transaction) => {
                (NotificationType::TransactionConfirmed, Priority::Medium)
            }
            (NoticeState::Confirmed, NoticeTopic::Payment) => {
                let priority = match notice.grouping {
                    Grouping::Single => Priority::Medium,
                    Grouping::Grouped => Priority::Low,
                };
                (NotificationType::PaymentReceived, priority)
            }
            _ => (NotificationType::TransactionFailed, Priority::High),
        };
        let mut notification = Notification {
            title,
            body,
            data: data(notice).to_string().into(),
            collapse_key: Some(collapse_key(notice)),
            ..Notification::default()
        };
        notification.set_type(kind);
        notification.set_priority(priority);
        notification
    }
}

impl NoticeSink for ChainNotifications {
    fn store(&self, notices: Vec<StoredNotice>) -> SinkFuture<'_> {
        Box::pin(self.send(notices))
    }
}

/// The idempotency key in a hub of several nodes. Each node counts its own notices, so that the number
/// of one may be that of another notice on another node: of the same transaction, for another user or
/// wallet. Two nodes that both follow a user's wallet may send two notifications, of which the newer
/// one replaces the older in the inbox.
fn shared_key(stored: &StoredNotice) -> String {
    let notice = &stored.notice;
    let topic = match notice.topic {
        NoticeTopic::Transaction => "transaction",
        NoticeTopic::Payment => "payment",
    };
    let user = &notice.user[..notice.user.floor_char_boundary(SHARED_KEY_USER)];
    format!("{}:{topic}:{}:{user}", stored.key(), wallet(notice))
}

/// The collapse key: of a transaction, of a payment in it, or of all payments of a token.
fn collapse_key(notice: &Notice) -> String {
    let Notice { chain, hash, .. } = notice;
    let token = notice.facts.token.as_ref();
    let token = token.map_or_else(|| "coin".to_owned(), |token| hex(&token.address));
    match (notice.topic, notice.grouping) {
        (NoticeTopic::Transaction, _) => format!("tx:{chain}:{hash}"),
        (NoticeTopic::Payment, Grouping::Single) => {
            format!("payment:{chain}:{hash}:{}:{token}", wallet(notice))
        }
        (NoticeTopic::Payment, Grouping::Grouped) => {
            format!("payments:{chain}:{}:{token}", wallet(notice))
        }
    }
}

fn wallet(notice: &Notice) -> String {
    notice.wallet.as_ref().map(hex).unwrap_or_default()
}

/// An address or a hash in lower case.
fn hex(bytes: &impl Debug) -> String {
    format!("{bytes:?}")
}

/// The beginning and the end of an address or a hash.
fn short(bytes: &impl Debug) -> String {
    let text = hex(bytes);
    match (text.get(..6), text.get(text.len().saturating_sub(4)..)) {
        (Some(begin), Some(end)) => format!("{begin}…{end}"),
        _ => text,
    }
}

/// The amount with its unit, exactly. None if it is not known.
fn amount(notice: &Notice, names: &ChainNames) -> Option<String> {
    let value = notice.facts.value?.to_string();
    let Some(token) = &notice.facts.token else {
        let amount = decimal(&value, COIN_DECIMALS);
        return Some(match &names.coin {
            Some(coin) => format!("{amount} {coin}"),
            None => format!("{amount} coins"),
        });
    };
    let unit = match &token.symbol {
        Some(symbol) => symbol.clone(),
        None => format!("of token {}", short(&token.address)),
    };
    Some(match token.decimals.filter(|one| *one <= MAX_DECIMALS) {
        Some(decimals) => format!("{} {unit}", decimal(&value, decimals)),
        None => format!("{value} units {unit}"),
    })
}

/// An amount in the smallest unit as an exact decimal number.
fn decimal(value: &str, decimals: u32) -> String {
    let decimals = decimals as usize;
    let digits = format!("{value:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

fn payment_text(notice: &Notice, names: &ChainNames, amount: Option<&str>) -> (String, String) {
    let amount = amount.unwrap_or("an unknown amount");
    let facts = &notice.facts;
    let from = facts
        .from
        .as_ref()
        .map_or_else(String::new, |from| format!(" from {}", short(from)));
    let to = notice.wallet.as_ref().map_or_else(String::new, |wallet| {
        format!(" to your wallet {}", short(wallet))
    });
    let label = &names.label;
    let is_unlisted = facts.token.as_ref().is_some_and(|token| !token.is_listed);
    match notice.state {
        NoticeState::Reorged => (
            format!("Payment taken back: {amount}"),
            format!(
                "A reorganisation of {label} removed the payment{from}{to}. It may be included again."
            ),
        ),
        _ => {
            let hint = match is_unlisted {
                true => " The token is not listed: it may be worthless.",
                false => "",
            };
            (
                format!("Payment received: {amount}"),
                format!("Payment{from}{to} on {label}.{hint}"),
            )
        }
    }
}

fn transaction_text(notice: &Notice, names: &ChainNames, amount: Option<&str>) -> (String, String) {
    let facts = &notice.facts;
    let has_value = facts.value.is_some_and(|value| !value.is_zero());
    let moved = match (amount.filter(|_| has_value), facts.to.as_ref()) {
        (Some(amount), Some(to)) => format!(" of {amount} to {}", short(to)),
        (Some(amount), None) => format!(" of {amount}"),
        (None, Some(to)) => format!(" to {}", short(to)),
        (None, None) => String::new(),
    };
    let (hash, label) = (short(&notice.hash), &names.label);
    let transaction = format!("Transaction {hash}{moved}");
    let reason = facts.reason.as_ref().map_or_else(String::new, |reason| {
        let reason: String = reason.chars().take(MAX_REASON).collect();
        format!(": {reason}")
    });
    let (title, happened) = match notice.state {
        NoticeState::Confirmed => ("Transaction confirmed", format!("is confirmed on {label}.")),
        NoticeState::Failed => ("Transaction failed", format!("failed on {label}{reason}.")),
        NoticeState::Replaced => (
            "Transaction replaced",
            format!("will not be included in {label}: another one has its nonce."),
        ),
        NoticeState::Cancelled => (
            "Transaction cancelled",
            format!("was cancelled on {label}."),
        ),
        NoticeState::Dropped => (
            "Transaction dropped",
            format!("was dropped by the nodes of {label}{reason}."),
        ),
        NoticeState::Reorged => (
            "Transaction taken back",
            format!("was removed by a reorganisation of {label}. It may be included again."),
        ),
    };
    (title.to_owned(), format!("{transaction} {happened}"))
}

/// The data for applications. Absent facts are left out.
fn data(notice: &Notice) -> Value {
    let facts = &notice.facts;
    let token = facts.token.as_ref();
    let fields = [
        ("chain", Some(json!(notice.chain))),
        ("hash", Some(json!(hex(&notice.hash)))),
        ("state", Some(json!(notice.state.as_str()))),
        ("address", notice.wallet.as_ref().map(|one| json!(hex(one)))),
        ("from", facts.from.as_ref().map(|one| json!(hex(one)))),
        ("to", facts.to.as_ref().map(|one| json!(hex(one)))),
        ("value", facts.value.map(|one| json!(one.to_string()))),
        ("token", token.map(|one| json!(hex(&one.address)))),
        (
            "symbol",
            token
                .and_then(|one| one.symbol.as_ref())
                .map(|one| json!(one)),
        ),
        (
            "decimals",
            token.and_then(|one| one.decimals).map(|one| json!(one)),
        ),
        ("listed", token.map(|one| json!(one.is_listed))),
        ("blockNumber", notice.block.map(|at| json!(at.number))),
        ("blockHash", notice.block.map(|at| json!(hex(&at.hash)))),
        ("reason", facts.reason.as_ref().map(|one| json!(one))),
        (
            "replacedBy",
            facts.replaced_by.as_ref().map(|one| json!(hex(one))),
        ),
    ];
    let present = fields.into_iter();
    let present = present.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (value, decimals, expected) in [
            ("0", 18, "0"),
            ("1", 18, "0.000000000000000001"),
            ("1500000000000000000", 18, "1.5"),
            ("123456789", 6, "123.456789"),
            ("1000000", 6, "1"),
            ("42", 0, "42"),
            (
                "115792089237316195423570985008687907853269984665640564039457584007913129639935",
                18,
                "115792089237316195423570985008687907853269984665640564039457.584007913129639935",
            ),
        ] {
            assert_eq!(decimal(value, decimals), expected);
        }
    }

    /// A sink for chain 1, which has a name and a coin, and no hub.
    fn sink() -> ChainNotifications {
        let names = ChainNames {
            label: "ethereum".to_owned(),
            coin: Some("ETH".to_owned()),
        };
        let clock = tidewire_stream::ManualClock::at(0);
        let policy = tidewire_stream::AnonymousPolicy::Read;
        let authenticator =
            tidewire_stream::Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        let stream = tidewire_stream::StreamCore::in_memory(
            tidewire_stream::Namespaces::built_in(),
            authenticator,
            clock,
            tidewire_stream::StreamOptions::default(),
        );
        ChainNotifications {
            service: NotifyRpc::new(stream),
            chains: HashMap::from([(1, names)]),
            is_shared: true,
        }
    }

    /// A notice with these fields and facts, beside those that each has.
    fn notice(fields: &Value, facts: &Value) -> Notice {
        let address = |digit: &str| format!("0x{}", digit.repeat(40));
        let mut notice = json!({
            "chain": 1, "user": "ada", "topic": "payment", "state": "confirmed",
            "grouping": "single", "hash": format!("0x{}", "ab".repeat(32)),
            "wallet": address("1"), "block": null,
            "facts": {
                "from": address("2"), "to": address("1"), "value": "0x14d1120d7b160000",
                "token": null, "reason": null, "replaced_by": null,
            },
        });
        for (name, value) in fields.as_object().unwrap() {
            notice[name] = value.clone();
        }
        for (name, value) in facts.as_object().unwrap() {
            notice["facts"][name] = value.clone();
        }
        serde_json::from_value(notice).unwrap()
    }

    #[test]
    fn texts_name_amounts_and_parties() {
        let token = |symbol: Option<&str>| {
            let address = format!("0x{}", "3".repeat(40));
            let is_listed = symbol.is_some();
            json!({"token": {
                "address": address, "symbol": symbol, "decimals": 6, "is_listed": is_listed,
            }})
        };
        let (transaction, none) = (json!({"topic": "transaction"}), json!({}));
        for (fields, facts, title, body) in [
            (
                &none,
                &none,
                "Payment received: 1.5 ETH",
                "Payment from 0x2222…2222 to your wallet 0x1111…1111 on ethereum.",
            ),
            (
                &json!({"chain": 7}),
                &none,
                "Payment received: 1.5 coins",
                "Payment from 0x2222…2222 to your wallet 0x1111…1111 on chain 7.",
            ),
            (
                &none,
                &token(Some("USDC")),
                "Payment received: 1500000000000 USDC",
                "Payment from 0x2222…2222 to your wallet 0x1111…1111 on ethereum.",
            ),
            (
                &none,
                &token(None),
                "Payment received: 1500000000000 of token 0x3333…3333",
                "Payment from 0x2222…2222 to your wallet 0x1111…1111 on ethereum. The token is not listed: it may be worthless.",
            ),
            (
                &json!({"state": "reorged"}),
                &none,
                "Payment taken back: 1.5 ETH",
                "A reorganisation of ethereum removed the payment from 0x2222…2222 to your wallet 0x1111…1111. It may be included again.",
            ),
            (
                &transaction,
                &none,
                "Transaction confirmed",
                "Transaction 0xabab…abab of 1.5 ETH to 0x1111…1111 is confirmed on ethereum.",
            ),
            (
                &json!({"topic": "transaction", "state": "failed"}),
                &json!({"reason": "out of gas", "value": "0x0"}),
                "Transaction failed",
                "Transaction 0xabab…abab to 0x1111…1111 failed on ethereum: out of gas.",
            ),
        ] {
            let notification = sink().notification(&notice(fields, facts));
            assert_eq!(notification.title, title);
            assert_eq!(notification.body, body);
        }
    }

    #[test]
    fn a_number_of_two_nodes_is_no_common_key() {
        let key = |number, fields: &Value| {
            let notice = notice(fields, &json!({}));
            let stored = StoredNotice { number, notice };
            sink().request(&stored).idempotency_key.unwrap()
        };
        let one = key(7, &json!({}));
        assert_eq!(one, key(7, &json!({})));
        let long = "u".repeat(400);
        for (number, fields) in [
            (8, json!({})),
            (7, json!({"user": "bob"})),
            (7, json!({"topic": "transaction"})),
            (7, json!({"wallet": format!("0x{}", "4".repeat(40))})),
            (
                u64::MAX,
                json!({"user": long, "chain": u64::MAX, "topic": "transaction"}),
            ),
        ] {
            let other = key(number, &fields);
            assert_ne!(one, other);
            assert!(other.len() <= 255, "{}", other.len());
        }
    }

    #[test]
    fn notifications_of_one_subject_collapse() {
        let key = |fields: &Value| collapse_key(&notice(fields, &json!({})));
        let payment = key(&json!({}));
        assert_eq!(payment, key(&json!({"state": "reorged"})));
        let other = json!({"hash": format!("0x{}", "cd".repeat(32))});
        assert_ne!(payment, key(&other));
        assert_ne!(payment, key(&json!({"topic": "transaction"})));
        let grouped = json!({"grouping": "grouped", "hash": format!("0x{}", "cd".repeat(32))});
        assert_eq!(key(&json!({"grouping": "grouped"})), key(&grouped));
    }
}
