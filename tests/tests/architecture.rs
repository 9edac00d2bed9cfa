//! Architecture lints: directions of dependencies, names, and beginnings of sentences.
//!
//! `cargo metadata` gives the dependencies between crates. `git ls-files` gives the Rust
//! files, whose definitions and documentation are matched line by line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Allowed direct dependencies of each crate. Add a new crate here.
const MAY_DEPEND_ON: [(&str, &[&str]); 15] = [
    ("tidewire-proto", &[]),
    ("tidewire-redis", &[]),
    ("tidewire-store", &["tidewire-proto", "tidewire-redis"]),
    ("tidewire-stream", &["tidewire-proto", "tidewire-redis"]),
    ("tidewire-price", FOUNDATION),
    ("tidewire-chain", FOUNDATION),
    ("tidewire-notification", FOUNDATION),
    ("tidewire-alert", FOUNDATION),
    // Senders know messages and the clock; the caller has the hub and the store.
    (
        "tidewire-delivery",
        &[
            "tidewire-proto",
            "tidewire-store",
            "tidewire-stream",
            "tidewire-notification",
        ],
    ),
    (
        "tidewire-service",
        &[
            "tidewire-proto",
            "tidewire-store",
            "tidewire-stream",
            "tidewire-price",
            "tidewire-chain",
            "tidewire-notification",
            "tidewire-alert",
            "tidewire-delivery",
        ],
    ),
    // An adapter knows RPC messages and sessions, never an engine.
    (
        "tidewire-adapters",
        &["tidewire-proto", "tidewire-stream", "tidewire-service"],
    ),
    // A client knows the protocol, and nothing of the server.
    ("tidewire-client", &["tidewire-proto"]),
    ("tidewire-load", EVERYTHING),
    ("tidewire-tests", EVERYTHING),
    ("tidewire", EVERYTHING),
];

/// Allowed dependencies of engines, which do not know each other.
const FOUNDATION: &[&str] = &["tidewire-proto", "tidewire-store", "tidewire-stream"];

/// Allowed dependencies of the composition root, and of test and load crates. No crate depends
/// on these.
const EVERYTHING: &[&str] = &[
    "tidewire-proto",
    "tidewire-redis",
    "tidewire-store",
    "tidewire-stream",
    "tidewire-price",
    "tidewire-chain",
    "tidewire-notification",
    "tidewire-alert",
    "tidewire-delivery",
    "tidewire-service",
    "tidewire-adapters",
    "tidewire-client",
];

/// Returns the crates of the workspace, each with its dependencies in the workspace except
/// dev-dependencies.
fn workspace() -> BTreeMap<String, Vec<String>> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let own = dependencies
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev")
                .map(name);
            (name(package), own.collect())
        });
    packages.collect()
}

#[test]
fn dependencies_point_one_way() {
    let rules: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    let workspace = workspace();
    assert!(workspace.contains_key("tidewire"), "{workspace:?}");
    for package in rules.keys() {
        assert!(
            workspace.contains_key(*package),
            "there is no crate {package}"
        );
    }
    for (package, dependencies) in &workspace {
        let allowed = rules.get(package.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{package} is not in MAY_DEPEND_ON"));
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} depends on {dependency}, expected only {allowed:?}"
            );
        }
    }
}

#[test]
fn no_crate_is_named_core() {
    // A crate `core` would shadow the standard library's.
    for package in workspace().keys() {
        assert!(
            !package.ends_with("-core") && package != "core",
            "{package}"
        );
    }
}

#[test]
fn the_rules_have_no_cycle_of_two() {
    let rules: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    for (package, allowed) in &rules {
        for dependency in *allowed {
            assert!(
                !rules[dependency].contains(package),
                "{package} and {dependency}"
            );
        }
    }
}

/// Words that are banned in names of files, modules and types, and as names of functions,
/// each with the name to use instead.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("archive", "block_store"),
    ("asked", "status, request"),
    ("blend", "methods"),
    ("desk", "processor"),
    ("doors", "access_policy"),
    ("handout", "delivery"),
    ("lies", "the behaviour under test"),
    ("operated", "server_actions"),
    ("parcel", "outgoing_item"),
    ("passing", "staleness"),
    ("pooled", "mempool"),
    ("shown", "snapshot"),
    ("taken", "outcome"),
    ("telling", "batch_mode"),
    ("waiting", "mempool, pending"),
    ("visit", "request_context"),
];

/// Returns the Rust files under version control, as paths from the repository's root.
fn rust_files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .output()
        .expect("git runs");
    assert!(output.status.success());
    let files = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let files: Vec<_> = files.lines().map(str::to_owned).collect();
    assert!(files.iter().any(|file| file == "src/main.rs"), "{files:?}");
    files
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A definition's keyword and name.
struct Definition<'a> {
    keyword: &'a str,
    name: &'a str,
}

/// Returns the definition on a line of code, if there is one.
fn definition(line: &str) -> Option<Definition<'_>> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(')')?.1,
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let mut words = line.split_whitespace();
    let keyword = words.find(|word| !["async", "const", "unsafe"].contains(word))?;
    if !["mod", "struct", "enum", "union", "trait", "type", "fn"].contains(&keyword) {
        return None;
    }
    let name = words.next()?;
    let end = name.find(|character: char| !character.is_alphanumeric() && character != '_');
    let name = &name[..end.unwrap_or(name.len())];
    (!name.is_empty()).then_some(Definition { keyword, name })
}

/// Splits a name in snake or camel case: `FlushOutcome` has `flush` and `outcome`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        if character == '_' || character.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character != '_') {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn names_are_the_fields_words() {
    let mut wrong = Vec::new();
    let mut check = |place: String, name: &str, words: Vec<String>| {
        for word in words {
            if let Some((_, better)) = BANNED_WORDS.iter().find(|(banned, _)| *banned == word) {
                wrong.push(format!("{place}: {name} has {word:?}, expected {better}"));
            }
        }
    };
    for file in rust_files() {
        let stem = Path::new(&file).file_stem().unwrap().to_string_lossy();
        check(file.clone(), &stem, words(&stem));
        for (number, line) in read(&file).lines().enumerate() {
            let Some(found) = definition(line) else {
                continue;
            };
            let place = format!("{file}:{}", number + 1);
            match found.keyword {
                // A test's name is a sentence, in which these are ordinary words.
                "fn" => check(place, found.name, vec![found.name.to_owned()]),
                _ => check(place, found.name, words(found.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Returns the folder of the crate whose library or main program a file belongs to.
fn crate_of(file: &str) -> Option<&str> {
    let (folder, rest) = file.split_once("src/")?;
    (!rest.starts_with("bin/") && !file.starts_with("clients/")).then_some(folder)
}

#[test]
fn no_crate_has_two_public_types_of_one_name() {
    let mut types: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for file in rust_files() {
        let Some(folder) = crate_of(&file) else {
            continue;
        };
        let text = read(&file);
        let is_public = |line: &&str| line.starts_with("pub ") || line.starts_with("pub(crate) ");
        for found in text.lines().filter(is_public).filter_map(definition) {
            if !["fn", "mod"].contains(&found.keyword) {
                let key = (folder.to_owned(), found.name.to_owned());
                types.entry(key).or_default().push(file.clone());
            }
        }
    }
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "{types:#?}");
}

/// Beginnings that no sentence of the documentation has, because its subject then comes late or
/// never.
const BANNED_BEGINNINGS: [&str; 6] = [
    "Who ",
    "Whoever ",
    "What ",
    "That which ",
    "So many ",
    "So much ",
];

/// Returns the documentation on a line, without its marker.
fn documentation(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("//!")
        .or_else(|| line.strip_prefix("///"))
}

/// Returns the lines of a file on which a sentence has a banned beginning.
fn banned_beginnings(text: &str) -> Vec<(usize, &str)> {
    let begins = |text: &str| BANNED_BEGINNINGS.iter().any(|word| text.starts_with(word));
    let mut found = Vec::new();
    let (mut previous, mut is_code) = ('.', false);
    for (number, line) in text.lines().enumerate() {
        let Some(text) = documentation(line).map(str::trim) else {
            (previous, is_code) = ('.', false);
            continue;
        };
        is_code ^= text.starts_with("```");
        if text.is_empty() || is_code {
            previous = '.';
            continue;
        }
        let is_first = matches!(previous, '.' | '!' | '?') || text.starts_with(['-', '|', '#']);
        let first = text.trim_start_matches(['-', '|', '#', ' ']);
        let mut later = [". ", "! ", "? "]
            .iter()
            .flat_map(|end| text.split(end).skip(1));
        if is_first && begins(first) || later.any(begins) {
            found.push((number + 1, text));
        }
        previous = text.chars().next_back().unwrap_or('.');
    }
    found
}

#[test]
fn sentences_begin_with_their_subject() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (line, text) in banned_beginnings(&read(&file)) {
            wrong.push(format!("{file}:{line}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_lints_find_faults() {
    assert_eq!(words("FlushOutcome_of"), ["flush", "outcome", "of"]);
    let found = |line| definition(line).map(|found| (found.keyword, found.name));
    assert_eq!(
        found("pub(crate) struct Kept<T>(T);"),
        Some(("struct", "Kept"))
    );
    assert_eq!(
        found("    pub(in crate::a) async fn told(&self) {"),
        Some(("fn", "told"))
    );
    assert_eq!(found("const FIRST: u8 = 1;"), None);
    let text = "/// A name. What it is.\n/// Not what\n/// What follows.\n\n/// What else\n// What";
    let lines: Vec<_> = banned_beginnings(text)
        .iter()
        .map(|(line, _)| *line)
        .collect();
    assert_eq!(lines, [1, 5]);
}
