//! Redis under test: a server of Redis in a folder of its own, on a free port.

use std::{
    env,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Place, Port, eventually, stop::stop, within};

/// A server of Redis. Dropping it kills the process.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    place: Place,
    port: Port,
    folder: TempDir,
    arguments: Vec<String>,
}

/// The program: `REDIS_SERVER`, or `redis-server` of the path.
fn program() -> OsString {
    env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

impl RedisServer {
    /// Starts a server that stores nothing on disk.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further arguments.
    ///
    /// # Panics
    /// There is no program `redis-server`, or it does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(Place::default(), arguments).await
    }

    /// Starts a server with further arguments on a host.
    ///
    /// # Panics
    /// As [`start_with`](Self::start_with).
    pub async fn start_on(place: Place, arguments: &[&str]) -> Self {
        let port = Port::free();
        let folder = TempDir::new().expect("a temporary folder");
        let arguments: Vec<_> = arguments.iter().map(|&one| one.to_owned()).collect();
        let child = spawn(&place, &port, &folder, &arguments);
        let server = Self {
            child,
            place,
            port,
            folder,
            arguments,
        };
        server.answers().await;
        server
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.place.address(), self.port()).into()
    }

    /// The URL, as `broker.url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The folder that it runs in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn answers(&self) {
        let what = format!("an answer of Redis on port {}", self.port());
        eventually(what, async || {
            let answer = self.try_command(&["PING"]).await?;
            let is_up = answer.starts_with("+PONG") || answer.starts_with("-NOAUTH");
            is_up.then_some(())
        })
        .await;
    }

    /// Sends a command on a connection of its own, and returns the answer as RESP.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let answer = self.try_command(arguments).await;
        answer.unwrap_or_else(|| panic!("no answer to {arguments:?}"))
    }

    /// Sends a command on a connection of its own. None if no answer comes.
    pub async fn try_command(&self, arguments: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).await.ok()?;
        // The answer ends with the connection.
        let text = encode(arguments) + &encode(&["QUIT"]);
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        within("an answer of Redis", read).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Some(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned())
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        Pid::from_raw(id).expect("and above zero")
    }

    /// Stops the process without ending it, as a machine that hangs.
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

    /// Kills the process.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("it ends");
    }

    /// Starts the server again after [`kill`](Self::kill), on the same port and folder.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.place, &self.port, &self.folder, &self.arguments);
        self.answers().await;
    }
}

impl RedisServer {
    /// Starts the server again with other arguments.
    pub async fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&one| one.to_owned()).collect();
        self.restart().await;
    }
}

/// A command as RESP.
fn encode(arguments: &[&str]) -> String {
    let mut text = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        text += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    text
}

/// Time after which a sentinel takes a master that does not answer for down.
const DOWN_AFTER: Duration = Duration::from_secs(1);

/// A sentinel under test, which watches one master under the name `tidewire`. Dropping it kills the
/// process.
#[derive(Debug)]
pub struct RedisSentinel {
    process: RedisServer,
}

impl RedisSentinel {
    /// Starts a sentinel that is alone, so that its word is enough for a failover.
    pub async fn start(master: &RedisServer) -> Self {
        Self::watch(master.port(), 1).await
    }

    /// Starts a sentinel of a master on this port. A failover needs `quorum` of them.
    ///
    /// # Panics
    /// There is no program `redis-server`, or it does not start.
    pub async fn watch(master: u16, quorum: usize) -> Self {
        let master = (Ipv4Addr::LOCALHOST, master).into();
        Self::watch_on(Place::default(), master, quorum, DOWN_AFTER).await
    }

    /// Starts a sentinel on a host, of a master that is down after a time without an answer
    /// (`down-after-milliseconds`).
    ///
    /// # Panics
    /// As [`watch`](Self::watch).
    pub async fn watch_on(
        place: Place,
        master: SocketAddr,
        quorum: usize,
        down_after: Duration,
    ) -> Self {
        let port = Port::free();
        let folder = TempDir::new().expect("a temporary folder");
        let text = format!(
            "port {}\nbind {}\nprotected-mode no\nsentinel monitor tidewire {} {} {quorum}\n\
             sentinel down-after-milliseconds tidewire {}\nsentinel failover-timeout tidewire 10000\n",
            port.number(),
            place.address(),
            master.ip(),
            master.port(),
            down_after.as_millis()
        );
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, text).expect("a file can be written");
        let child = place
            .command(program())
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server runs");
        let process = RedisServer {
            child,
            place,
            port,
            folder,
            arguments: Vec::new(),
        };
        let sentinel = Self { process };
        let what = format!(
            "an answer of the sentinel on port {}",
            sentinel.process.port()
        );
        eventually(what, async || sentinel.try_command(&["PING"]).await).await;
        sentinel
    }

    /// The address, as `broker.sentinels` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        self.process.address().to_string()
    }

    /// Sends a command on a connection of its own, and returns the answer as RESP.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let answer = self.try_command(arguments).await;
        answer.unwrap_or_else(|| panic!("no answer to {arguments:?}"))
    }

    /// The port of the master that it names.
    ///
    /// # Panics
    /// It names none.
    pub async fn master(&self) -> u16 {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tidewire"];
        let answer = self.command(&question).await;
        let port = answer.lines().last().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{answer:?} names no master"))
    }

    /// Stops the process without ending it.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    async fn try_command(&self, arguments: &[&str]) -> Option<String> {
        const END: &str = "+PONG\r\n";
        let mut stream = TcpStream::connect(self.process.address()).await.ok()?;
        // A sentinel does not know QUIT. The answer ends with that to the second command.
        let commands = encode(arguments) + &encode(&["PING"]);
        stream.write_all(commands.as_bytes()).await.ok()?;
        let mut answer = String::new();
        while !answer.ends_with(END) {
            let mut part = [0; 4_096];
            let read = within("an answer of the sentinel", stream.read(&mut part)).await;
            let length = read.ok().filter(|length| *length > 0)?;
            answer += &String::from_utf8_lossy(&part[..length]);
        }
        answer.truncate(answer.len() - END.len());
        Some(answer)
    }
}

fn spawn(place: &Place, port: &Port, folder: &TempDir, arguments: &[String]) -> Child {
    let address = place.address().to_string();
    place
        .command(program())
        .args(["--port", &port.number().to_string(), "--bind", &address])
        .args(["--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server runs: install Redis 7.0 or later, or set REDIS_SERVER")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
