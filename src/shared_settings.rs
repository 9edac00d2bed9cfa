//! Shared settings: the values of this node that all nodes should have, in a form that may leave it.
//!
//! Nodes compare them ([`agreement`](crate::agreement)). Those that belong to one node alone are not
//! among them, such as its address, its folder and its limits.
//!
//! Of a secret, a *mark* of 16 bits leaves the node: two secrets have the same one by chance once in
//! 65,536 times, which is enough to find a mistake. A reader of Redis can rule out guesses by it, and
//! confirm none.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use tidewire_stream::{NodeSettings, redacted_url};

use crate::{
    config::{Config, NamespaceConfig, StoreKind},
    roles::Role,
    secret,
};

/// The text that a mark is computed of, with the secret as the key.
const MARK_LABEL: &[u8] = b"tidewire: the same secret on all nodes";

/// Bytes of the digest of something public that nodes tell.
const DIGEST_BYTES: usize = 8;

/// The settings of the node with this name, which listens on `address`.
pub(crate) fn of(config: &Config, node: &str, address: SocketAddr) -> NodeSettings {
    NodeSettings {
        node: node.to_owned(),
        place: match host_name() {
            Some(host) => format!("{host}, {address}"),
            None => address.to_string(),
        },
        values: values(config),
    }
}

fn values(config: &Config) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        values.insert(name.to_owned(), value);
    };
    let (broker, store) = (&config.broker, &config.store);
    let kind = match store.kind {
        StoreKind::Embedded => "embedded",
        StoreKind::Redis => "redis",
    };
    set("store.kind", kind.to_owned());
    set("broker.share_prices", broker.share_prices.to_string());
    set("broker.share_chains", broker.share_chains.to_string());
    let window = config.stream.idempotency_window;
    set(
        "stream.idempotency_window",
        humantime::format_duration(window).to_string(),
    );
    // A node that never owns an engine may lack its settings.
    let has = |role: Role| role.is_among(&config.server.roles);
    if broker.share_prices && has(Role::Prices) {
        set("prices.symbols", list(&config.prices.symbols));
    }
    if store.kind == StoreKind::Redis && has(Role::Alerts) {
        set("store.replicas", store.replicas.to_string());
        set("notifications.types", list(&config.notifications.types));
    }
    let auth = &config.auth;
    set("auth.anonymous", auth.anonymous.to_string());
    set("auth.audience", list(&auth.audience));
    set("auth.issuer", list(&auth.issuer));
    set(
        "auth.leeway",
        humantime::format_duration(auth.leeway).to_string(),
    );
    set("auth.hmac_secret", secrets(config));
    let file = auth.public_key_file.as_ref();
    set(
        "auth.public_key_file",
        file.map_or_else(none, |path| match fs::read(path) {
            Ok(content) => digest(&content),
            Err(_) => "unreadable".to_owned(),
        }),
    );
    let url = auth.jwks_url.as_deref();
    set(
        "auth.jwks_url",
        url.map_or_else(none, |url| {
            format!("{} {}", redacted_url(url), mark(url.as_bytes()))
        }),
    );
    for namespace in &config.namespace {
        let name = namespace_setting(namespace.name());
        set(&name, namespace_value(namespace));
    }
    let is_own = config.namespace.iter().any(|one| one.name() == "demo");
    if config.server.listen.ip().is_loopback() && !is_own {
        set(&namespace_setting("demo"), "that of loopback".to_owned());
    }
    values
}

/// The name under which a namespace is compared. A node that does not have it says nothing.
pub(crate) fn namespace_setting(name: &str) -> String {
    format!("{NAMESPACE} {name}")
}

/// The beginning of the names of namespaces.
pub(crate) const NAMESPACE: &str = "namespace";

fn namespace_value(config: &NamespaceConfig) -> String {
    if let Some(access) = config.access_alone() {
        return format!("access {access:?}");
    }
    let namespace = config.namespace();
    format!(
        "class {:?}, history_size {}, history_ttl {}, access {:?}, publish {:?}",
        namespace.class,
        namespace.history_size,
        humantime::format_duration(namespace.history_ttl),
        namespace.access,
        namespace.publish,
    )
}

/// The marks of the secrets that tokens are verified with.
fn secrets(config: &Config) -> String {
    let auth = &config.auth;
    if let Some(secret) = &auth.hmac_secret {
        // All that are accepted, whichever is the new one.
        let all = [Some(secret), auth.hmac_secret_previous.as_ref()];
        let marks = all.into_iter().flatten();
        let marks: Vec<_> = marks.map(|secret| mark(secret.as_bytes())).collect();
        return list(&marks);
    }
    if auth.has_public_keys() {
        return none();
    }
    // The server has read or made it by now.
    match secret::own_secret(&config.store.path) {
        Ok(own) => format!("of its folder {}", mark(own.text.as_bytes())),
        Err(_) => "unreadable".to_owned(),
    }
}

fn none() -> String {
    "none".to_owned()
}

/// A list in which the order does not matter.
fn list(texts: &[String]) -> String {
    let mut texts: Vec<_> = texts.iter().map(String::as_str).collect();
    texts.sort_unstable();
    texts.dedup();
    match texts.is_empty() {
        true => none(),
        false => texts.join(" "),
    }
}

/// The mark of a secret.
fn mark(secret: &[u8]) -> String {
    // A key of any length will do.
    let Ok(mut code) = Hmac::<Sha256>::new_from_slice(secret) else {
        return "#".to_owned();
    };
    code.update(MARK_LABEL);
    let code = code.finalize().into_bytes();
    format!("#{:02x}{:02x}", code[0], code[1])
}

fn digest(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let bytes = digest[..DIGEST_BYTES].iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The name of this machine, or of its container.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secret: &str) -> Config {
        let mut config = Config::default();
        config.auth.hmac_secret = Some(secret.to_owned());
        config
    }

    #[test]
    fn a_secret_leaves_the_node_as_sixteen_bits() {
        let secret = "a secret of thirty-two bytes or more";
        let values = values(&config(secret));
        let mark = &values["auth.hmac_secret"];
        assert_eq!(mark.len(), "#0123".len(), "{mark}");
        assert!(values.values().all(|value| !value.contains(secret)));
        assert_eq!(values, super::values(&config(secret)));
        let other = super::values(&config("another secret of thirty-two bytes"));
        let differing = values
            .iter()
            .filter(|(name, value)| other[*name] != **value);
        let differing: Vec<_> = differing.map(|(name, _)| &**name).collect();
        assert_eq!(differing, ["auth.hmac_secret"]);
    }

    #[test]
    fn a_node_without_a_role_tells_nothing_of_its_engine() {
        let mut config = config("a secret of thirty-two bytes or more");
        config.broker.share_prices = true;
        assert!(values(&config).contains_key("prices.symbols"));
        config.server.roles = vec![Role::Gateway.name().to_owned()];
        assert!(!values(&config).contains_key("prices.symbols"));
    }
}
