//! The binary under test: started with a configuration of its own on a free port,
//! and stopped.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::{SECRET, http_client, within};

/// The binary: `TIDEWIRE_BIN`, or the one that was built beside the tests.
///
/// # Panics
/// There is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("TIDEWIRE_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("a test has a path");
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/debug/deps")
        .join("tidewire");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build` first, or set TIDEWIRE_BIN",
        path.display()
    );
    path
}

/// The binary with these arguments, in this folder, with nothing of the
/// environment that configures it.
#[must_use]
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Starts a server in this folder with a configuration that it refuses, and gives what it
/// said.
///
/// # Panics
/// It starts, or the file cannot be written.
pub async fn refused_start(folder: &Path, config: &str) -> String {
    let file = folder.join("tidewire.toml");
    std::fs::write(&file, config).expect("a configuration");
    let arguments = ["--config", file.to_str().expect("a path")];
    let mut command = command(folder, &arguments);
    let output = within("the server's end", command.output()).await;
    let output = output.expect("the server runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// Asks a process to end, as the keyboard does.
///
/// # Panics
/// It has ended.
pub fn interrupt(child: &Child) {
    kill_process(pid(child), Signal::INT).expect("a signal can be sent");
}

fn pid(child: &Child) -> Pid {
    let id = child.id().expect("the process runs");
    Pid::from_raw(i32::try_from(id).expect("process ids are small")).expect("and above zero")
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    sections: BTreeMap<&'static str, Vec<String>>,
    tables: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    without_file: bool,
    unasked: bool,
}

impl ServerBuilder {
    fn new() -> Self {
        let builder = Self {
            sections: BTreeMap::new(),
            tables: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            without_file: false,
            unasked: false,
        };
        builder
            .set("server", "listen = \"127.0.0.1:0\"")
            .set("server", "drain = \"2s\"")
            .set("auth", &format!("hmac_secret = {SECRET:?}"))
    }

    /// Sets a key of a section, `server`, `auth`, `limits` …, by its line.
    #[must_use]
    pub fn set(mut self, section: &'static str, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
        let lines = self.sections.entry(section).or_default();
        lines.retain(|set| key(set) != key(line));
        lines.push(line.to_owned());
        self
    }

    /// Adds a namespace; `rest` are its keys but the name.
    #[must_use]
    pub fn namespace(mut self, name: &str, rest: &str) -> Self {
        self.tables
            .push(format!("[[namespace]]\nname = {name:?}\n{rest}\n"));
        self
    }

    /// Adds a table, by its text.
    #[must_use]
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push(text.to_owned());
        self
    }

    /// Adds a source of prices.
    #[must_use]
    pub fn source(mut self, kind: &str, name: &str, url: &str) -> Self {
        self.tables.push(format!(
            "[[prices.source]]\nkind = {kind:?}\nname = {name:?}\nurl = {url:?}\n"
        ));
        self
    }

    /// Arguments before `--config`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a configuration file, and so without what this builder sets in it.
    #[must_use]
    pub fn without_file(mut self) -> Self {
        self.without_file = true;
        self
    }

    /// Without asking it whether it is ready: nobody has connected to it then.
    #[must_use]
    pub fn unasked(mut self) -> Self {
        self.unasked = true;
        self
    }

    /// The configuration file.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut sections = self.sections.clone();
        // Without symbols no venue is connected to: no test leaves this machine.
        let prices = sections.entry("prices").or_default();
        if !prices.iter().any(|line| line.starts_with("symbols")) {
            prices.push("symbols = []".to_owned());
        }
        let mut text = String::new();
        for (section, lines) in &sections {
            writeln!(text, "[{section}]\n{}\n", lines.join("\n")).expect("a string takes text");
        }
        text + &self.tables.join("\n")
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(self) -> Server {
        let folder = TempDir::new().expect("a temporary folder");
        let mut arguments = self.arguments.clone();
        if !self.without_file {
            let path = folder.path().join("tidewire.toml");
            std::fs::write(&path, self.toml()).expect("the configuration can be written");
            arguments.extend(["--config".to_owned(), path.display().to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = command(folder.path(), &arguments);
        command
            .envs(self.environment)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let log = follow(&mut child);
        let mut server = Server {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            folder,
            http: http_client(),
        };
        let line = server.log_line("listens on http").await;
        let address = line.rsplit("://").next().unwrap_or_default().trim();
        server.address = address
            .parse()
            .unwrap_or_else(|_| panic!("no address in {line:?}"));
        // Over TLS it takes a client that trusts it.
        if line.contains("http://") && !self.unasked {
            let ready = server.get("/readyz").await;
            assert_eq!(ready.status, 200, "{}", ready.body);
        }
        server
    }
}

/// Keeps what the server logs.
fn follow(child: &mut Child) -> watch::Receiver<Vec<String>> {
    let (sender, log) = watch::channel(Vec::new());
    let stderr = child.stderr.take().expect("stderr is piped");
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|log| log.push(line));
        }
    });
    log
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: watch::Receiver<Vec<String>>,
    folder: TempDir,
    http: reqwest::Client,
}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// It is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} is not JSON", self.body))
    }

    async fn of(response: reqwest::Response) -> Self {
        let content_type = response.headers().get("content-type");
        Self {
            status: response.status().as_u16(),
            content_type: content_type
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            body: response.text().await.expect("a body"),
        }
    }
}

impl Server {
    /// What a server is started with, beginning with the least.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// A server with the least configuration.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of its HTTP side.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its HTTP client.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The folder that it was started in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process, for signals.
    ///
    /// # Panics
    /// It has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        pid(&self.child)
    }

    /// Gets a path.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.url(path))).await
    }

    /// Sends a request.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        within("an answer over HTTP", async {
            Answer::of(request.send().await.expect("an answer")).await
        })
        .await
    }

    /// Calls a unary RPC with JSON, as `StreamService/Publish`.
    pub async fn call(&self, method: &str, token: Option<&str>, body: &Value) -> Answer {
        let mut request = self
            .http
            .post(self.url(&format!("/v1/rpc/{method}")))
            .json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        self.send(request).await
    }

    /// Publishes as a back end. Gives the answer's JSON.
    ///
    /// # Panics
    /// It is refused.
    pub async fn publish(&self, channel: &str, data: Value) -> Value {
        let body = serde_json::json!({"channel": channel, "data": data});
        let answer = self
            .call(
                "StreamService/Publish",
                Some(&crate::Token::service()),
                &body,
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The sum of a metric over all its labels that hold `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.get("/metrics").await.body;
        let values = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits for a line of the log that holds `text`.
    ///
    /// # Panics
    /// The server ended without.
    pub async fn log_line(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let found = |log: &Vec<String>| log.iter().any(|line| line.contains(text));
        let ended = within(format!("{text:?} in the log"), log.wait_for(found))
            .await
            .is_err();
        let lines = self.log.borrow();
        let line = lines.iter().find(|line| line.contains(text));
        assert!(
            line.is_some(),
            "no {text:?} in the log, ended: {ended}\n{}",
            lines.join("\n")
        );
        line.cloned().unwrap_or_default()
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// Has it read its certificates again, as an operator would.
    ///
    /// # Panics
    /// It has ended.
    pub fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("a signal can be sent");
    }

    /// Asks it to stop, as an operator would.
    ///
    /// # Panics
    /// It has ended.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a signal can be sent");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the server's end", self.child.wait())
            .await
            .expect("a process ends once")
    }

    /// Kills it.
    ///
    /// # Panics
    /// It has ended.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the server runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.borrow().join("\n  ");
            // Into the captured output of the test that fails.
            #[expect(clippy::print_stdout, reason = "the log explains the failure")]
            {
                println!("the server's log:\n  {log}");
            }
        }
    }
}
