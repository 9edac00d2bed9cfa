//! A real node on this machine: Anvil, with a chain of its own.
//!
//! It comes from npm: `npm install` in `tests/tools`, as `tests/run` does it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{http_client, within};

/// Where npm puts it. The file itself, not the script before it, so that it can be
/// killed.
fn anvil() -> PathBuf {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        system => system,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        machine => machine,
    };
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/node_modules");
    let path = tools.join(format!("@foundry-rs/anvil-{system}-{machine}/bin/anvil"));
    assert!(
        path.is_file(),
        "{} is missing: run `npm install` in tests/tools",
        path.display()
    );
    path
}

/// A running node. Dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    folder: TempDir,
    http: reqwest::Client,
}

impl Node {
    /// A node that mines a block for each transaction, and whenever it is asked.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A node with further arguments.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let (child, port) = spawn(&folder, &arguments, 0).await;
        Self {
            child,
            port,
            arguments,
            folder,
            http: http_client(),
        }
    }

    /// Its WebSocket.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Its HTTP side.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its socket file.
    #[must_use]
    pub fn ipc(&self) -> String {
        self.folder.path().join("node.ipc").display().to_string()
    }

    /// Stops it; it keeps its chain.
    ///
    /// # Panics
    /// It does not end.
    pub async fn stop(&mut self) {
        let id = self.child.id().expect("the node runs");
        let pid = Pid::from_raw(i32::try_from(id).expect("process ids are small"));
        kill_process(pid.expect("and above zero"), Signal::TERM).expect("a signal can be sent");
        within("the node's end", self.child.wait())
            .await
            .expect("a process ends once");
    }

    /// Starts it again where it was, with the chain it had.
    pub async fn resume(&mut self) {
        let (child, _) = spawn(&self.folder, &self.arguments, self.port).await;
        self.child = child;
    }

    /// Calls a method, and gives what it answers.
    ///
    /// # Panics
    /// It is refused.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let asking = self.http.post(self.http()).json(&body).send();
        let answer = within(format!("an answer to {method}"), asking).await;
        let answer: Value = answer
            .expect("the node answers")
            .json()
            .await
            .expect("in JSON");
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Mines so many blocks.
    pub async fn mine(&self, count: u64) {
        self.call("anvil_mine", json!([format!("{count:#x}"), "0x0"]))
            .await;
    }

    /// Replaces so many of the newest blocks by as many others.
    pub async fn reorg(&self, depth: u64) {
        self.call("anvil_reorg", json!([depth, []])).await;
    }

    /// The accounts that it signs for.
    ///
    /// # Panics
    /// There are none.
    pub async fn accounts(&self) -> Vec<String> {
        let accounts = self.call("eth_accounts", json!([])).await;
        serde_json::from_value(accounts).expect("a list of addresses")
    }

    /// Sends coins, in wei, and gives the transaction's hash.
    ///
    /// # Panics
    /// It is refused.
    pub async fn send(&self, from: &str, to: &str, value: u64) -> String {
        let transaction = json!({"from": from, "to": to, "value": format!("{value:#x}")});
        let hash = self.call("eth_sendTransaction", json!([transaction])).await;
        hash.as_str().expect("a hash").to_owned()
    }

    /// The height of its newest block.
    ///
    /// # Panics
    /// It is no number.
    pub async fn height(&self) -> u64 {
        number(&self.call("eth_blockNumber", json!([])).await)
    }

    /// A block of its chain.
    pub async fn block(&self, number: u64) -> Value {
        let number = format!("{number:#x}");
        self.call("eth_getBlockByNumber", json!([number, false]))
            .await
    }

    /// The hash of a block of its chain.
    ///
    /// # Panics
    /// There is none.
    pub async fn hash(&self, number: u64) -> String {
        let block = self.block(number).await;
        block["hash"].as_str().expect("a hash").to_owned()
    }
}

/// A number as nodes write it.
///
/// # Panics
/// It is none.
#[must_use]
pub fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(text.expect("0x…"), 16).expect("a hexadecimal number")
}

async fn spawn(folder: &TempDir, arguments: &[String], port: u16) -> (Child, u16) {
    let path = |name: &str| folder.path().join(name).display().to_string();
    // The state does not hold the first block: it is to be the same after a restart.
    let first_block: &[&str] = match arguments.iter().any(|own| own == "--timestamp") {
        true => &[],
        false => &["--timestamp", "1700000000"],
    };
    let mut child = Command::new(anvil())
        .args(["--port", &port.to_string(), "--ipc", &path("node.ipc")])
        .args(["--state", &path("state.json")])
        .args(first_block)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let listening = async {
        loop {
            let line = lines.next_line().await.expect("a line");
            let line = line.expect("the node listens before it ends");
            if let Some(address) = line.strip_prefix("Listening on ") {
                let port = address
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok());
                break port.expect("a port");
            }
        }
    };
    let port = within("the node to listen", listening).await;
    // It writes on, and must not find its pipe full.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, port)
}
