//! Server under test: starts the binary with its own configuration on a free port, and stops
//! it.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::{Endpoint, Place, SECRET, stop::stop, tls::Authority, within};

/// Time between two probes of a server's readiness.
const READINESS_PROBE: Duration = Duration::from_millis(20);

/// Returns the path of the binary: `TIDEWIRE_BIN`, or the binary built beside the tests.
///
/// # Panics
/// The file does not exist.
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

/// Builds a command for the binary with these arguments in this folder, without any
/// `TIDEWIRE_` variable of the environment.
#[must_use]
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    prepare(Command::new(binary()), folder, arguments)
}

fn prepare(mut command: Command, folder: &Path, arguments: &[&str]) -> Command {
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

/// Starts a server whose configuration is invalid, and returns its error output.
///
/// # Panics
/// The server starts, or the file cannot be written.
pub async fn refused_start(folder: &Path, config: &str) -> String {
    let file = folder.join("tidewire.toml");
    std::fs::write(&file, config).expect("a configuration");
    let arguments = ["--config", file.to_str().expect("a path")];
    let mut command = command(folder, &arguments);
    let output = within("the server's end", command.output()).await;
    let output = output.expect("the server runs");
    let error_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{error_text}");
    error_text
}

/// Sends SIGINT, as Ctrl-C does.
///
/// # Panics
/// The process has ended.
pub fn interrupt(child: &Child) {
    kill_process(pid(child), Signal::INT).expect("a signal can be sent");
}

fn pid(child: &Child) -> Pid {
    let id = child.id().expect("the process runs");
    Pid::from_raw(i32::try_from(id).expect("process ids are small")).expect("and above zero")
}

/// Configuration, arguments and environment of a server.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    sections: BTreeMap<&'static str, Vec<String>>,
    tables: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    without_file: bool,
    without_readiness_check: bool,
    has_tls: bool,
    place: Place,
    binary: Option<PathBuf>,
}

impl ServerBuilder {
    fn new() -> Self {
        let builder = Self {
            sections: BTreeMap::new(),
            tables: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            without_file: false,
            without_readiness_check: false,
            has_tls: crate::tls::is_default(),
            place: Place::default(),
            binary: None,
        };
        builder
            .set("server", "listen = \"127.0.0.1:0\"")
            .set("server", "drain = \"2s\"")
            // Tests publish and poll as fast as they can.
            .set("limits", "messages_per_second = 1000000")
            .set("auth", &format!("hmac_secret = {SECRET:?}"))
    }

    /// Sets one line (`key = value`) in a section such as `server`, `auth` or `limits`.
    #[must_use]
    pub fn set(mut self, section: &'static str, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
        let lines = self.sections.entry(section).or_default();
        lines.retain(|set| key(set) != key(line));
        lines.push(line.to_owned());
        self
    }

    /// Runs it on a host.
    #[must_use]
    pub fn on(mut self, place: Place) -> Self {
        let listen = format!("listen = \"{}:0\"", place.address());
        self.place = place;
        self.set("server", &listen)
    }

    /// Adds a namespace. `rest` holds its keys except the name.
    #[must_use]
    pub fn namespace(mut self, name: &str, rest: &str) -> Self {
        self.tables
            .push(format!("[[namespace]]\nname = {name:?}\n{rest}\n"));
        self
    }

    /// Adds a table, as TOML text.
    #[must_use]
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push(text.to_owned());
        self
    }

    /// Adds a price source.
    #[must_use]
    pub fn source(mut self, kind: &str, name: &str, url: &str) -> Self {
        self.tables.push(format!(
            "[[prices.source]]\nkind = {kind:?}\nname = {name:?}\nurl = {url:?}\n"
        ));
        self
    }

    /// Runs the binary of another release.
    #[must_use]
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Adds arguments before `--config`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts without a configuration file, which drops everything set in it.
    #[must_use]
    pub fn without_file(mut self) -> Self {
        self.without_file = true;
        self
    }

    /// Skips the readiness request, so that the server has had no connection before the test.
    #[must_use]
    pub fn without_readiness_check(mut self) -> Self {
        self.without_readiness_check = true;
        self
    }

    /// Serves over TLS, with a certificate that the server's clients trust.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.has_tls = true;
        self
    }

    /// Returns the text of the configuration file.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut sections = self.sections.clone();
        // Without symbols the server connects to no venue: no test leaves this machine.
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
    pub async fn start(mut self) -> Server {
        let folder = TempDir::new().expect("a temporary folder");
        let authority = self.has_tls.then(Authority::new);
        if let Some(authority) = &authority {
            let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
            let [certificate, key] = &paths;
            authority.sign(&["localhost"]).write(certificate, key);
            self = self
                .set("server", &format!("tls_cert = {certificate:?}"))
                .set("server", &format!("tls_key = {key:?}"));
        }
        let mut arguments = self.arguments.clone();
        if !self.without_file {
            let path = folder.path().join("tidewire.toml");
            std::fs::write(&path, self.toml()).expect("the configuration can be written");
            arguments.extend(["--config".to_owned(), path.display().to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = self
            .place
            .command(self.binary.unwrap_or_else(binary))
            .into();
        let mut command = prepare(program, folder.path(), &arguments);
        command
            .envs(self.environment)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let log = collect_log(&mut child);
        let mut server = Server {
            child,
            endpoint: Endpoint::new(([127, 0, 0, 1], 0).into(), authority),
            log,
            folder,
        };
        let line = server.log_line("listens on http").await;
        let address = line.rsplit("://").next().unwrap_or_default().trim();
        server.endpoint.address = address
            .parse()
            .unwrap_or_else(|_| panic!("no address in {line:?}"));
        // With another certificate, this client cannot send requests.
        if (line.contains("http://") || self.has_tls) && !self.without_readiness_check {
            within("a server that is ready", server.is_ready()).await;
        }
        server
    }
}

/// Collects the server's log lines.
fn collect_log(child: &mut Child) -> watch::Receiver<Vec<String>> {
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

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    endpoint: Endpoint,
    log: watch::Receiver<Vec<String>>,
    folder: TempDir,
}

impl Deref for Server {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Server {
    /// Starts a builder with the minimal configuration.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Starts a server with the minimal configuration.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Waits until the server is ready: on a busy machine a tick may be late for a moment.
    async fn is_ready(&self) {
        while self.get("/readyz").await.status != 200 {
            tokio::time::sleep(READINESS_PROBE).await;
        }
    }

    /// Returns the working folder of the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the process id, for signals.
    ///
    /// # Panics
    /// The process has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        pid(&self.child)
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    /// The process has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most resident memory since the start, or since [`forget_peak`](Self::forget_peak), in
    /// bytes.
    ///
    /// # Panics
    /// As [`resident_bytes`](Self::resident_bytes).
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.memory("VmHWM:")
    }

    /// Has the peak of the memory begin anew.
    ///
    /// # Panics
    /// As [`resident_bytes`](Self::resident_bytes).
    pub fn forget_peak(&self) {
        std::fs::write(self.proc_file("clear_refs"), "5").expect("the process runs");
    }

    fn memory(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(self.proc_file("status")).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        let kib = kib.and_then(|kib| kib.parse::<usize>().ok());
        kib.expect("kibibytes") * 1_024
    }

    fn proc_file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid().as_raw_nonzero())
    }

    /// Waits for a log line that contains `text`.
    ///
    /// # Panics
    /// The server ended without logging it.
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

    /// Returns the log up to now.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// Sends SIGHUP, which reloads the certificates.
    ///
    /// # Panics
    /// The process has ended.
    pub fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("a signal can be sent");
    }

    /// Makes every write of the server beyond `bytes` of a file fail as on a full disk, or none.
    ///
    /// # Panics
    /// The process has ended.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit {
            current: bytes.or(maximum),
            maximum,
        };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a limit can be set");
    }

    /// Stops the process without ending it, as a machine that hangs. All of its threads have stopped
    /// afterwards.
    ///
    /// # Panics
    /// The process has ended.
    pub fn pause(&self) {
        stop(self.pid());
    }

    /// Lets a paused process go on.
    ///
    /// # Panics
    /// The process has ended.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("a signal can be sent");
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// The process has ended.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a signal can be sent");
    }

    /// Waits for the process to exit.
    ///
    /// # Panics
    /// It does not exit.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the server's end", self.child.wait())
            .await
            .expect("a process ends once")
    }

    /// Kills the process.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the server runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.borrow().join("\n  ");
            // Printed, so that it appears in the failed test's captured output.
            #[expect(clippy::print_stdout, reason = "the log explains the failure")]
            {
                println!("the server's log:\n  {log}");
            }
        }
    }
}
