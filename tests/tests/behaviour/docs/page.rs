//! Examples of the documentation. An example is a code block whose fence names its kind:
//!
//! - `json client`: messages that a client sends on a WebSocket, one per line
//! - `json server`: all messages that the server then sends
//! - `json example`: a server message that no request triggers
//! - `json call SERVICE/METHOD`: the request of an RPC
//! - `json post`: a message posted to the scene's SSE connection
//! - `json answer [STATUS]`: the response to `call` or `post`
//! - `sh`, if it is `curl -N 'http://127.0.0.1:8080/…'`: opens an SSE connection
//! - `text events`: the events that then arrive on it

use std::{fs, path::Path};

/// Kind of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Client,
    Server,
    Example,
    Call(String),
    Post,
    Answer(u16),
    Open(String),
    Events,
}

impl Kind {
    /// Whether a server is needed to check it.
    pub(super) fn is_played(&self) -> bool {
        *self != Self::Example
    }
}

/// An example and its location.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) place: String,
    pub(super) kind: Kind,
    /// JSON texts, or the lines of each event.
    pub(super) messages: Vec<String>,
}

/// The examples of one section.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) examples: Vec<Example>,
}

/// Returns all scenes of `docs/`, in order.
pub(super) fn scenes() -> Vec<Scene> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut paths: Vec<_> = fs::read_dir(docs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    let mut scenes = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        read(&name, &fs::read_to_string(&path).unwrap(), &mut scenes);
    }
    scenes
}

fn read(name: &str, page: &str, scenes: &mut Vec<Scene>) {
    let mut examples = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.starts_with("## ") {
            scenes.push(Scene {
                examples: std::mem::take(&mut examples),
            });
        }
        let Some(fence) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let place = format!("{name}:{}", number + 1);
        let block = block.join("\n");
        examples.extend(example(place, fence, &block));
    }
    scenes.push(Scene { examples });
}

fn example(place: String, fence: &str, block: &str) -> Option<Example> {
    let kind = match fence.split(' ').collect::<Vec<_>>()[..] {
        ["json", "client"] => Kind::Client,
        ["json", "server"] => Kind::Server,
        ["json", "example"] => Kind::Example,
        ["json", "call", method] => Kind::Call(method.to_owned()),
        ["json", "post"] => Kind::Post,
        ["json", "answer"] => Kind::Answer(200),
        ["json", "answer", status] => Kind::Answer(status.parse().unwrap()),
        ["sh"] => {
            let query = block.strip_prefix("curl -N 'http://127.0.0.1:8080/v1/sse")?;
            Kind::Open(query.strip_suffix('\'')?.to_owned())
        }
        ["text", "events"] => Kind::Events,
        ["json", ..] => panic!("{place}: what is {fence:?}?"),
        _ => return None,
    };
    let messages = match &kind {
        Kind::Open(_) => Vec::new(),
        Kind::Events => block.split("\n\n").map(str::to_owned).collect(),
        _ => block.lines().map(str::to_owned).collect(),
    };
    Some(Example {
        place,
        kind,
        messages,
    })
}
