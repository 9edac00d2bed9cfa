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
const MAY_DEPEND_ON: [(&str, &[&str]); 14] = [
    ("tidewire-proto", &[]),
    ("tidewire-store", &["tidewire-proto"]),
    ("tidewire-stream", &["tidewire-proto"]),
    ("tidewire-price", FOUNDATION),
    ("tidewire-chain", FOUNDATION),
    ("tidewire-notification", FOUNDATION),
    ("tidewire-alert", FOUNDATION),
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
        ],
    ),
    // An adapter knows RPC messages and sessions, never an engine.
    (
        "tidewire-adapters",
        &["tidewire-proto", "tidewire-stream", "tidewire-service"],
    ),
    ("tidewire-client", &["tidewire-proto"]),
    ("tidewire-benches", EVERYTHING),
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
    "tidewire-store",
    "tidewire-stream",
    "tidewire-price",
    "tidewire-chain",
    "tidewire-notification",
    "tidewire-alert",
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

/// Words that are banned in file names and definitions, each with the word to use instead.
/// `docs/glossary.md` defines the words of the second column.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("archive", "block_store"),
    ("asked", "status, requested"),
    ("blend", "methods"),
    ("board", "heads"),
    ("desk", "processor"),
    ("doors", "access_policy"),
    ("followed", "interest, watched"),
    ("follower", "subscriber"),
    ("following", "interest"),
    ("gather", "write_coalescing"),
    ("handout", "delivery"),
    ("keeping", "retention"),
    ("kept", "interest, retained"),
    ("operated", "server_actions"),
    ("parcel", "outgoing_item"),
    ("passing", "staleness"),
    ("pooled", "mempool"),
    ("seen", "dedup"),
    ("shown", "snapshot"),
    ("taken", "outcome"),
    ("taking", "delivery"),
    ("telling", "batch_mode"),
    ("told", "sent_updates"),
    ("visit", "request_context"),
    ("waiting", "mempool, pending"),
    ("whoever", "a noun"),
];

/// The Rust files under version control, as paths from the repository's root.
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

/// A definition: its keyword, its name, and whether it is public at all.
struct Definition<'a> {
    keyword: &'a str,
    name: &'a str,
    is_public: bool,
}

/// The definition on a line of code, if there is one.
fn definition(line: &str) -> Option<Definition<'_>> {
    let mut words = line.split_whitespace();
    let mut is_public = false;
    let keyword = loop {
        match words.next()? {
            word if word == "pub" || word.starts_with("pub(") => is_public = true,
            "async" | "const" | "unsafe" | "in" => {}
            word if word.ends_with(')') && is_public => {}
            word => break word,
        }
    };
    if !["mod", "struct", "enum", "union", "trait", "type", "fn"].contains(&keyword) {
        return None;
    }
    let name = words.next()?;
    let end = name.find(|character: char| !character.is_alphanumeric() && character != '_');
    let name = &name[..end.unwrap_or(name.len())];
    (!name.is_empty()).then_some(Definition {
        keyword,
        name,
        is_public,
    })
}

/// The words of a name in snake or camel case: `FlushOutcome` has `flush` and `outcome`.
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
    let mut check = |place: String, name: &str| {
        for word in words(name) {
            if let Some((_, better)) = BANNED_WORDS.iter().find(|(banned, _)| *banned == word) {
                wrong.push(format!("{place}: {name} has {word:?}, expected {better}"));
            }
        }
    };
    for file in rust_files() {
        let stem = Path::new(&file).file_stem().unwrap().to_string_lossy();
        check(file.clone(), &stem);
        for (number, line) in read(&file).lines().enumerate() {
            if let Some(definition) = definition(line) {
                check(format!("{file}:{}", number + 1), definition.name);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The folders whose code is one crate each.
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
        for line in read(&file).lines().filter(|line| line.starts_with("pub")) {
            let Some(definition) = definition(line) else {
                continue;
            };
            if definition.is_public && !["fn", "mod"].contains(&definition.keyword) {
                let key = (folder.to_owned(), definition.name.to_owned());
                types.entry(key).or_default().push(file.clone());
            }
        }
    }
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "{types:#?}");
}

/// Words that no sentence of the documentation begins with, because its subject then comes
/// late or never.
const BANNED_BEGINNINGS: [&str; 6] = [
    "Who ",
    "Whoever ",
    "What ",
    "That which ",
    "So many ",
    "So much ",
];

/// The documentation on a line, without its marker.
fn documentation(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("//!")
        .or_else(|| line.strip_prefix("///"))
}

#[test]
fn sentences_begin_with_their_subject() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let mut end = '.';
        let mut is_code = false;
        for (number, line) in read(&file).lines().enumerate() {
            let Some(text) = documentation(line).map(str::trim) else {
                (end, is_code) = ('.', false);
                continue;
            };
            if text.starts_with("```") {
                is_code = !is_code;
            }
            if text.is_empty() || is_code {
                end = '.';
                continue;
            }
            let begins = |text: &str| BANNED_BEGINNINGS.iter().any(|word| text.starts_with(word));
            let text = format!("{text} ");
            let is_start = matches!(end, '.' | '!' | '?') || text.starts_with(['-', '|', '#']);
            if is_start && begins(text.trim_start_matches(['-', '|', '#', ' ']))
                || [". ", "! ", "? "]
                    .iter()
                    .any(|end| text.split(end).skip(1).any(begins))
            {
                wrong.push(format!("{file}:{}: {}", number + 1, text.trim_end()));
            }
            end = text.trim_end().chars().next_back().unwrap_or('.');
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_lints_find_what_they_look_for() {
    assert_eq!(
        words("FlushOutcome_of_HTTP"),
        ["flush", "outcome", "of", "h", "t", "t", "p"]
    );
    let names = |line: &str| {
        definition(line).map(|found| (found.keyword.to_owned(), found.name.to_owned()))
    };
    let expected = |keyword: &str, name: &str| Some((keyword.to_owned(), name.to_owned()));
    assert_eq!(
        names("pub(crate) struct Kept<T>(T);"),
        expected("struct", "Kept")
    );
    assert_eq!(
        names("    pub(in crate::a) async fn told(&self) {"),
        expected("fn", "told")
    );
    assert_eq!(names("const FIRST: u8 = 1;"), None);
    assert_eq!(documentation("    /// What it is."), Some(" What it is."));
}
