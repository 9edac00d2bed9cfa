//! Roles: the engines that a node may run for all nodes.
//!
//! Every node serves the clients that come to it. A node without a role leaves the work of that role
//! to others, which it finds in Redis.

use crate::config::{BrokerKind, Config, StoreKind};

/// A role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All roles.
    All,
    /// Serving clients, which every node does: the only role of a node without engines.
    Gateway,
    /// Following venues, and publishing prices for all nodes if it is the owner.
    Prices,
    /// Notifications and alerts, if it owns the shared store.
    Alerts,
    /// Following chains for all nodes, each of them if it is its owner.
    Chain,
}

impl Role {
    const EACH: [Self; 5] = [
        Self::All,
        Self::Gateway,
        Self::Prices,
        Self::Alerts,
        Self::Chain,
    ];

    /// Its name in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Gateway => "gateway",
            Self::Prices => "prices",
            Self::Alerts => "alerts",
            Self::Chain => "chain",
        }
    }

    /// Whether a node with these roles has this one.
    pub(crate) fn is_among(self, roles: &[String]) -> bool {
        let has = |role: Self| roles.iter().any(|name| name == role.name());
        has(self) || has(Self::All)
    }
}

/// The faults in `server.roles`, and in the keys that it depends on.
pub(crate) fn check(config: &Config, problems: &mut Vec<String>) {
    let roles = &config.server.roles;
    if roles.is_empty() {
        problems.push(
            "server.roles is empty, expected \"gateway\" for a node without engines".to_owned(),
        );
        return;
    }
    let known = Role::EACH.map(Role::name);
    if let Some(unknown) = roles.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        problems.push(format!(
            "server.roles has {unknown:?}, expected some of {known}"
        ));
        return;
    }
    let names_chain = roles.iter().any(|name| name == Role::Chain.name());
    if names_chain && !config.broker.share_chains {
        problems.push("server.roles has chain, and broker.share_chains is false, expected true: without it each node follows its chains by itself, whatever its roles are".to_owned());
        return;
    }
    let (prices, alerts) = (Role::Prices.is_among(roles), Role::Alerts.is_among(roles));
    if prices && alerts {
        return;
    }
    let missing = if prices { "alerts" } else { "prices" };
    let problem = if alerts {
        "server.roles has alerts without prices, expected both: alerts are judged by the prices of their own node".to_owned()
    } else if config.broker.kind != BrokerKind::Redis {
        format!(
            "server.roles is without {missing}, and broker.kind is \"memory\", expected broker.kind = \"redis\": another node must have this role"
        )
    } else if config.store.kind != StoreKind::Redis {
        "server.roles is without alerts, and store.kind is \"embedded\", expected store.kind = \"redis\": notifications and alerts must be those of another node".to_owned()
    } else if !prices && !config.broker.share_prices {
        "server.roles is without prices, and broker.share_prices is false, expected true: prices must be those of another node".to_owned()
    } else {
        return;
    };
    problems.push(problem);
}
