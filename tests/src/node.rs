//! Node: a local Anvil node with its own chain, for end-to-end tests.
//!
//! `npm install` in `tests/tools` installs Anvil. `tests/run` does that by itself.

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

use crate::{Port, http_client, within};

/// The path of Anvil's binary. npm's wrapper script is not used: killing it would leave Anvil
/// running.
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

/// A running node. It is killed on drop.
#[derive(Debug)]
pub struct Node {
    child: Child,
    port: Port,
    arguments: Vec<String>,
    folder: TempDir,
    http: reqwest::Client,
}

impl Node {
    /// A node that mines a block for each transaction, and on [`mine`](Self::mine).
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A node with further arguments for Anvil.
    ///
    /// # Panics
    /// Anvil does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let port = Port::free();
        let child = spawn(&folder, &arguments, &port).await;
        Self {
            child,
            port,
            arguments,
            folder,
            http: http_client(None),
        }
    }

    /// The WebSocket URL.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port.number())
    }

    /// The HTTP URL.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// The path of the IPC socket.
    #[must_use]
    pub fn ipc(&self) -> String {
        self.folder.path().join("node.ipc").display().to_string()
    }

    /// Stops the node. Its chain stays for [`resume`](Self::resume).
    ///
    /// # Panics
    /// The process does not end.
    pub async fn stop(&mut self) {
        let id = self.child.id().expect("the node runs");
        let pid = Pid::from_raw(i32::try_from(id).expect("process ids are small"));
        kill_process(pid.expect("and above zero"), Signal::TERM).expect("a signal can be sent");
        within("the node's end", self.child.wait())
            .await
            .expect("a process ends once");
    }

    /// Starts the node again, at the same port and with the same chain.
    pub async fn resume(&mut self) {
        self.child = spawn(&self.folder, &self.arguments, &self.port).await;
    }

    /// Calls a method and returns the result.
    ///
    /// # Panics
    /// The node returns an error.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let request = self.http.post(self.http()).json(&body).send();
        let response = within(format!("a response to {method}"), request).await;
        let response: Value = response
            .expect("the node responds")
            .json()
            .await
            .expect("in JSON");
        assert!(response.get("error").is_none(), "{method}: {response}");
        response["result"].clone()
    }

    /// Mines this number of blocks.
    pub async fn mine(&self, count: u64) {
        self.call("anvil_mine", json!([format!("{count:#x}"), "0x0"]))
            .await;
    }

    /// Replaces the newest `depth` blocks by as many others.
    pub async fn reorg(&self, depth: u64) {
        self.call("anvil_reorg", json!([depth, []])).await;
    }

    /// The accounts for which the node signs.
    ///
    /// # Panics
    /// The response is not a list of addresses.
    pub async fn accounts(&self) -> Vec<String> {
        let accounts = self.call("eth_accounts", json!([])).await;
        serde_json::from_value(accounts).expect("a list of addresses")
    }

    /// Sends coins, in wei, and returns the transaction's hash.
    ///
    /// # Panics
    /// The node refuses the transaction.
    pub async fn send(&self, from: &str, to: &str, value: u64) -> String {
        let transaction = json!({"from": from, "to": to, "value": format!("{value:#x}")});
        let hash = self.call("eth_sendTransaction", json!([transaction])).await;
        hash.as_str().expect("a hash").to_owned()
    }

    /// The height of the newest block.
    ///
    /// # Panics
    /// The response is not a number.
    pub async fn height(&self) -> u64 {
        number(&self.call("eth_blockNumber", json!([])).await)
    }

    /// The block at this height.
    pub async fn block(&self, number: u64) -> Value {
        let number = format!("{number:#x}");
        self.call("eth_getBlockByNumber", json!([number, false]))
            .await
    }

    /// The hash of the block at this height.
    ///
    /// # Panics
    /// There is no such block.
    pub async fn hash(&self, number: u64) -> String {
        let block = self.block(number).await;
        block["hash"].as_str().expect("a hash").to_owned()
    }
}

/// The number in a hex string of a node.
///
/// # Panics
/// The value is not such a string.
#[must_use]
pub fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(text.expect("0x…"), 16).expect("a hexadecimal number")
}

async fn spawn(folder: &TempDir, arguments: &[String], port: &Port) -> Child {
    let path = |name: &str| folder.path().join(name).display().to_string();
    // Anvil does not store the first block. A fixed time makes it the same after a restart.
    let first_block: &[&str] = match arguments.iter().any(|own| own == "--timestamp") {
        true => &[],
        false => &["--timestamp", "1700000000"],
    };
    let mut child = Command::new(anvil())
        .args(["--port", &port.number().to_string(), "--ipc", &path("node.ipc")])
        .args(["--state", &path("state.json")])
        .args(first_block)
        .args(arguments)
        // Anvil waits for its locks on the threads that serve requests. With as many as a small machine has
        // processors, a few requests at once can stop it for good.
        .env("TOKIO_WORKER_THREADS", "8")
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
            if line.starts_with("Listening on ") {
                break;
            }
        }
    };
    within("the node to listen", listening).await;
    // Anvil goes on writing, and would block on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    child
}
