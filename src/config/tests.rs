//! Tests of the configuration: the example, defaults, and the words of errors.

use figment::{
    Figment,
    providers::{Format as _, Toml},
};

use super::{
    millisecond_keys::{EarlierNames, PresentNames},
    *,
};

const EXAMPLE: &str = include_str!("../../tidewire.example.toml");

fn read(text: &str) -> anyhow::Result<Config> {
    let mut earlier = EarlierNames::default();
    let names = PresentNames::read(&Toml::string(text), &mut earlier)?;
    assert!(earlier.renamed.is_empty(), "{earlier:?}");
    Figment::from(&names).extract().map_err(explain_all)
}

/// The example with its commented keys and tables.
fn whole_example() -> String {
    let is_key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.starts_with('[') || (line.contains(" = ") && !name.contains(' '))
    };
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(key) if is_key(key) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_shows_the_defaults() {
    let text = |config: &Config| format!("{config:#?}");
    let (example, default) = (text(&read(EXAMPLE).unwrap()), text(&Config::default()));
    for (found, expected) in example.lines().zip(default.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(example.lines().count(), default.lines().count());
}

#[test]
fn the_examples_tables_show_the_defaults_of_their_keys() {
    let all = read(&whole_example()).unwrap();
    assert_eq!(all.namespace[0].namespace(), Namespace::history("orders"));
    let bare = read("[[chain]]\nid = 1\n[prices.supply_source]\nurl = \"http://a\"").unwrap();
    let (chain, default) = (&all.chain[0], &bare.chain[0]);
    assert_eq!(chain.block_time(), default.block_time());
    assert_eq!(chain.reorg_limit(), default.reorg_limit());
    assert_eq!(chain.finality().tag(), default.finality().tag());
    assert_eq!(chain.coin(), default.coin());
    let plain = |chain: &ChainConfig| {
        let ChainConfig {
            confirmations,
            agreement,
            call_timeout,
            catch_up,
            drop_after,
            tokens,
            ..
        } = chain.clone();
        (
            confirmations,
            agreement,
            call_timeout,
            catch_up,
            drop_after,
            tokens,
        )
    };
    assert_eq!(plain(chain), plain(default));
    let supply = |config: &Config| {
        let source = config.prices.supply_source.clone().unwrap();
        (source.interval, source.timeout, source.most_bytes)
    };
    assert_eq!(supply(&all), supply(&bare));
}

#[test]
fn every_key_of_the_example_is_known() {
    let config = read(&whole_example()).unwrap();
    assert_eq!(config.chain.len(), 1);
    assert_eq!(
        config.chain[0].block_time,
        Some(config.chain[0].block_time())
    );
    assert!(config.prices.supply_source.is_some());
}

#[test]
fn the_example_names_every_key() {
    for table in [
        "",
        "[server]",
        "[auth]",
        "[broker]",
        "[store]",
        "[stream]",
        "[limits]",
        "[alerts]",
        "[log]",
        "[[namespace]]\nname = \"a\"",
        "[prices]",
        "[prices.symbol.\"BTC-USD\"]",
        "[prices.supply_source]\nurl = \"http://a\"",
        "[[prices.source]]\nkind = \"binance\"",
        "[[chain]]\nid = 1",
    ] {
        // The error lists the known keys of the table.
        let error = read(&format!("{table}\nzzzzzz = 1"))
            .unwrap_err()
            .to_string();
        let (_, known) = error.split_once("expected one of ").unwrap();
        for key in known.split(", ") {
            let is_named = |line: &str| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                let line = line.strip_prefix("prices.").unwrap_or(line);
                let rest = line.strip_prefix(key).unwrap_or("x");
                !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            };
            let is_url = key == "url" && EXAMPLE.contains("(with url)");
            assert!(is_url || EXAMPLE.lines().any(is_named), "{table}: {key}");
        }
    }
}

#[test]
fn a_keep_alive_is_neither_too_short_nor_too_long() {
    let check = |keepalive: &str| {
        let config = read(&format!("[server]\nkeepalive = {keepalive:?}")).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    assert_eq!(check("1s"), Ok(()));
    assert_eq!(check("10m"), Ok(()));
    for wrong in ["0s", "999ms", "601s"] {
        let error = check(wrong).unwrap_err();
        assert!(error.contains("expected 1s to 10m"), "{error}");
    }
}

#[test]
fn keys_of_notifications_are_checked() {
    let refusal = |text: &str| read(text).unwrap().check().unwrap_err().to_string();
    let items = refusal("[store]\ninbox_items = 0");
    assert!(items.starts_with("store.inbox_items is 0"), "{items}");
    let age = refusal("[notifications]\nmax_age = \"0s\"");
    assert_eq!(age, "notifications.max_age is 0s, expected 1s to 4years");
    for wrong in ["Order", "price_alert", "a\", \"a"] {
        let types = refusal(&format!("[notifications]\ntypes = [\"{wrong}\"]"));
        assert!(types.starts_with("notifications.types["), "{types}");
    }
    let config = read("[notifications]\ntypes = [\"order_shipped\"]").unwrap();
    config.check().unwrap();
    assert_eq!(config.notification_config().types, ["order_shipped"]);
}

#[test]
fn a_role_that_a_node_lacks_is_that_of_another_node() {
    let redis = "[broker]\nkind = \"redis\"\nurl = \"redis://localhost\"\nshare_prices = true";
    let shared = &format!("{redis}\n[store]\nkind = \"redis\"");
    let check = |roles: &str, rest: &str| {
        let config = read(&format!("[server]\nroles = [{roles}]\n{rest}")).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    for good in [
        ("\"all\"", ""),
        ("\"prices\", \"alerts\"", ""),
        ("\"prices\", \"gateway\"", shared),
        ("\"gateway\"", shared),
    ] {
        assert_eq!(check(good.0, good.1), Ok(()), "{good:?}");
    }
    let own_prices = &shared.replace("share_prices = true", "share_prices = false");
    for (roles, rest, start) in [
        ("", "", "server.roles is empty"),
        (
            "\"gateway\"",
            "",
            "server.roles is without prices, and broker.kind is",
        ),
        (
            "\"prices\"",
            "",
            "server.roles is without alerts, and broker.kind is",
        ),
        (
            "\"prices\"",
            redis,
            "server.roles is without alerts, and store.kind is",
        ),
        (
            "\"alerts\"",
            shared,
            "server.roles has alerts without prices",
        ),
        (
            "\"gateway\"",
            own_prices,
            "server.roles is without prices, and broker.share_prices is",
        ),
    ] {
        let error = check(roles, rest).unwrap_err();
        assert!(error.starts_with(start), "{error}");
    }
    let unknown = check("\"prices\", \"chains\"", shared).unwrap_err();
    assert_eq!(
        unknown,
        "server.roles has \"chains\", expected some of all, gateway, prices, alerts, chain"
    );
}

#[test]
fn chains_are_shared_over_redis_alone() {
    let redis = "[broker]\nkind = \"redis\"\nurl = \"redis://localhost\"\nshare_prices = true";
    let check = |text: &str| {
        let config = read(text).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    let roles = |roles: &str, shares: bool| {
        format!(
            "[server]\nroles = [{roles}]\n{redis}\nshare_chains = {shares}\n[store]\nkind = \"redis\""
        )
    };
    for good in [
        "\"all\"",
        "\"gateway\"",
        "\"chain\"",
        "\"chain\", \"prices\"",
    ] {
        assert_eq!(check(&roles(good, true)), Ok(()), "{good:?}");
    }
    for (text, start) in [
        (
            "[broker]\nshare_chains = true",
            "broker.share_chains is true, and broker.kind is",
        ),
        (
            &format!("{redis}\nshare_chains = true"),
            "broker.share_chains is true, and store.kind is",
        ),
        (
            &roles("\"chain\"", false),
            "server.roles has chain, and broker.share_chains is false",
        ),
    ] {
        let error = check(text).unwrap_err();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn limits_are_checked_against_each_other() {
    let contradictions = |text: &str| read(text).unwrap().contradictions();
    assert_eq!(contradictions(EXAMPLE), [""; 0]);
    let small = contradictions("[limits]\noutbox_bytes = 32768");
    assert_eq!(small.len(), 1, "{small:?}");
    let long = contradictions("[[namespace]]\nname = \"log\"\nhistory_size = 10000");
    assert_eq!(long.len(), 1, "{long:?}");
    assert!(
        long[0].starts_with("namespace.history_size of \"log\" is 10000"),
        "{long:?}"
    );
    assert!(small[0].starts_with("limits.outbox_bytes is 32768 and limits.frame_bytes 65536"));
}

#[test]
fn errors_are_in_the_words_of_an_operator() {
    for (text, expected) in [
        (
            "[server]\nthreads = -1",
            "`server.threads` is the number -1, expected a whole number, 0 at least",
        ),
        (
            "[server]\ncompression = 1",
            "`server.compression` is the number 1, expected true or false",
        ),
        (
            "[auth]\nanonymous = \"no\"",
            "`auth.anonymous` is the text \"no\", expected true or false",
        ),
        (
            "[store]\nkind = \"sqlite\"",
            "`store.kind` is the text \"sqlite\", expected one of \"embedded\", \"redis\"",
        ),
        (
            "[notifications]\ntypes = 5",
            "`notifications.types` is the number 5, expected a list such as [\"a\", \"b\"]",
        ),
        (
            "[[namespace]]\nclass = \"history\"",
            "`name` of the first `[[namespace]]` is missing",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        // The name of the source is beside the value.
        let error = error.replace(" (TOML source string)", "");
        assert_eq!(error, expected);
    }
}

#[test]
fn a_duration_has_a_unit() {
    for wrong in ["10", "\"10\"", "\"10 parsecs\"", "\"-1s\""] {
        let error = read(&format!("[server]\ndrain = {wrong}")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`server.drain` is "), "{text}");
        assert!(text.contains("expected a duration such as"), "{text}");
    }
}
