//! Sample user: what a server on sample data has beside prices and a made-up chain.
//!
//! The user `sample` has the wallet of the sample chain, and rules on its fees and on prices. So
//! notifications and alerts come by themselves, through the same engines as real ones.

use std::time::Duration;

use tidewire_chain::{ChainEngine, sample};
use tidewire_proto::{
    json,
    v1::{AlertRule, Notification, NotificationType, NotifyRequest, Priority},
};
use tidewire_service::{AlertRpc, NotifyRpc};
use tidewire_stream::UserId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The user.
pub(crate) const USER: &str = "sample";

/// Sender of its notifications. No token has this subject, because a space is not allowed in one.
const SENDER: &str = "sample data";

/// Time between two attempts while a part of the server is not open yet.
const RETRY: Duration = Duration::from_millis(500);

/// The rules of the user, each with its idempotency key, without which a restart would add them
/// again.
const RULES: [(&str, &str); 4] = [
    (
        "sample-crossing",
        r#"{"name": "Bitcoin crosses 61,800", "repeat": "recurring", "cooldownMs": 60000,
            "condition": {"kind": "price_crosses", "symbol": "BTC-USD", "threshold": 61800, "direction": "either"}}"#,
    ),
    (
        "sample-change",
        r#"{"name": "Ether moves", "repeat": "recurring", "cooldownMs": 120000,
            "condition": {"kind": "percent_change", "symbol": "ETH-USD", "percent": 0.05, "windowMs": 60000}}"#,
    ),
    (
        "sample-gas",
        r#"{"name": "Gas is dear", "repeat": "recurring", "cooldownMs": 120000,
            "condition": {"kind": "gas_above", "chain": 7357, "gwei": 14}}"#,
    ),
    (
        "sample-high",
        r#"{"name": "Bitcoin at a million",
            "condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": 1000000}}"#,
    ),
];

/// Gives the sample user a wallet, notifications and alerts.
pub(crate) struct SampleUser {
    /// The command that prints a token of the user.
    pub(crate) token_command: String,
    pub(crate) notify: NotifyRpc,
    pub(crate) alerts: AlertRpc,
    pub(crate) chains: ChainEngine,
    /// The configured symbols: a rule on another one is refused.
    pub(crate) symbols: Vec<String>,
}

impl SampleUser {
    /// Sets the user up, once the parts of the server are open.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.set_up()).await;
    }

    async fn set_up(&self) {
        let user = UserId::new(USER);
        let wallet = format!("{:?}", sample::WALLET);
        if let Err(error) = self.chains.link_wallet(&user, &wallet).await {
            tracing::warn!(%error, "the sample user has no wallet");
        }
        self.welcome(&wallet).await;
        self.add_rules().await;
    }

    /// Sends the first notification, once there is a store for it.
    async fn welcome(&self, wallet: &str) {
        let hub = loop {
            match self.notify.open_hub() {
                Ok(hub) => break hub,
                Err(_) => sleep(RETRY).await,
            }
        };
        tracing::info!(
            chain = sample::CHAIN_ID,
            wallet,
            "{} prints the token of a user with sample notifications and alerts",
            self.token_command
        );
        let mut notification = Notification {
            title: "Sample data".to_owned(),
            body: "This inbox is of a made-up user, on a made-up chain and a made-up market."
                .to_owned(),
            ..Notification::default()
        };
        notification.set_type(NotificationType::SystemAnnouncement);
        notification.set_priority(Priority::High);
        let request = NotifyRequest {
            user: Some(USER.to_owned()),
            notification: Some(notification),
            idempotency_key: Some("sample-welcome".to_owned()),
            ..NotifyRequest::default()
        };
        for result in hub.notify_batch(&UserId::new(SENDER), vec![request]).await {
            if let Err(error) = result {
                tracing::debug!(%error, "the first sample notification is not sent");
            }
        }
    }

    async fn add_rules(&self) {
        let engine = loop {
            match self.alerts.opened_engine() {
                Some(engine) => break engine,
                None => sleep(RETRY).await,
            }
        };
        for (key, text) in RULES {
            let rule: AlertRule = match json::from_slice(text.as_bytes()) {
                Ok(rule) => rule,
                Err(error) => {
                    tracing::error!(%error, key, "a sample alert is malformed");
                    continue;
                }
            };
            let is_known = |symbol: &String| text.contains(&format!("{symbol:?}"));
            if text.contains("\"symbol\"") && !self.symbols.iter().any(is_known) {
                continue;
            }
            let registered = engine.register(USER, rule, Some(key.to_owned()));
            if let Err(error) = registered.await {
                tracing::debug!(%error, key, "a sample alert is not registered");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_well_formed() {
        for (key, text) in RULES {
            let rule: AlertRule = json::from_slice(text.as_bytes()).unwrap();
            assert!(rule.condition.is_some() && rule.name.is_some(), "{key}");
        }
        assert!(RULES[2].1.contains(&sample::CHAIN_ID.to_string()));
    }
}
