//! Server processes: the server under test and the reference servers, started, measured and
//! stopped.

pub(crate) mod certificate;
pub(crate) mod config;
pub(crate) mod venue;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tempfile::TempDir;

pub(crate) use certificate::Certificate;
pub(crate) use config::ServerConfig;
pub(crate) use venue::Venue;

use crate::{
    machine::{self, CpuTime, Memory},
    peer,
};

/// Time limit for a server to log its address.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The binary under test.
    Tidewire,
    /// This tool's own loop: one write per subscriber and message.
    Bare,
    /// The same loop, with one write per subscriber for all messages of one read.
    Gather,
    /// uWebSockets in Bun.
    Bun,
}

/// Programs and their CPUs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) tidewire: PathBuf,
    pub(crate) bun: Option<PathBuf>,
    /// CPUs of the server and of this tool. Empty without pinning.
    pub(crate) server_cpus: Vec<usize>,
    pub(crate) own_cpus: Vec<usize>,
    /// Time after a window in which its messages may still arrive, in nanoseconds.
    pub(crate) grace: u64,
    /// Further environment variables of the binary.
    pub(crate) environment: Vec<(String, String)>,
    /// The certificate of the servers, if they are measured over TLS.
    pub(crate) certificate: Option<Certificate>,
}

impl Programs {
    /// Returns the TLS configuration of clients, if the servers are measured over TLS.
    pub(crate) fn client(&self) -> Option<Arc<ClientConfig>> {
        let certificate = self.certificate.as_ref()?;
        Some(certificate.client.clone())
    }
}

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Configuration and data of the server.
    folder: TempDir,
}

impl Server {
    /// Starts a program and waits until it listens.
    ///
    /// # Errors
    /// It does not listen; the error holds its output.
    pub(crate) fn start(
        programs: &Programs,
        program: Program,
        config: &ServerConfig,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        Self::start_in(folder, programs, program, config)
    }

    /// Starts a program in a folder that may hold earlier data.
    ///
    /// # Errors
    /// It does not listen.
    pub(crate) fn start_in(
        folder: TempDir,
        programs: &Programs,
        program: Program,
        config: &ServerConfig,
    ) -> anyhow::Result<Self> {
        let mut command = command(folder.path(), programs, program, config)?;
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEWIRE_") {
                command.env_remove(name);
            }
        }
        command
            .envs(
                programs
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // A process inherits the CPUs of the thread that starts it.
        let is_pinned = !programs.server_cpus.is_empty();
        if is_pinned {
            machine::keep_to(&programs.server_cpus)?;
        }
        let spawned = command.spawn();
        if is_pinned {
            machine::keep_to(&programs.own_cpus)?;
        }
        let mut child = spawned.with_context(|| format!("{program:?} does not start"))?;
        match listening(&mut child) {
            Ok(address) => Ok(Self {
                child,
                address,
                folder,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("{program:?} does not listen")))
            }
        }
    }

    /// Returns its processor time up to now.
    pub(crate) fn cpu(&self) -> CpuTime {
        CpuTime::of(self.child.id())
    }

    /// Returns its memory.
    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the process has no id")?;
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM to the server")
    }

    /// Returns the exit status, once it has exited.
    ///
    /// # Errors
    /// The operating system returns an error.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends the server, and returns its folder.
    pub(crate) fn into_folder(mut self) -> anyhow::Result<TempDir> {
        self.stop();
        let empty = TempDir::new().context("no temporary folder")?;
        Ok(std::mem::replace(&mut self.folder, empty))
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn command(
    folder: &Path,
    programs: &Programs,
    program: Program,
    config: &ServerConfig,
) -> anyhow::Result<Command> {
    if let Some(certificate) = &programs.certificate {
        let written = certificate.write(folder);
        written.context("the certificate cannot be written")?;
    }
    let has_tls = programs.certificate.is_some();
    match program {
        Program::Tidewire => {
            let file = folder.join("tidewire.toml");
            fs::write(&file, config.toml(has_tls))
                .context("the configuration cannot be written")?;
            let mut command = Command::new(&programs.tidewire);
            command.arg("serve").arg("--config").arg(file);
            Ok(command)
        }
        Program::Bare | Program::Gather => {
            anyhow::ensure!(!has_tls, "the bare loops have no TLS");
            let mut command = Command::new(env::current_exe()?);
            command.arg("bare");
            if program == Program::Gather {
                command.arg("--gather");
            }
            Ok(command)
        }
        Program::Bun => {
            let bun = programs
                .bun
                .as_ref()
                .context("no `bun` was given: name it with --bun")?;
            let script = folder.join("server.js");
            fs::write(&script, peer::BUN_SCRIPT).context("the script cannot be written")?;
            let mut command = Command::new(bun);
            command.arg(script);
            if has_tls {
                command.args([certificate::CERTIFICATE_FILE, certificate::KEY_FILE]);
            }
            Ok(command)
        }
    }
}

/// Waits for the log line with the server's address.
fn listening(child: &mut Child) -> anyhow::Result<SocketAddr> {
    const BEFORE: &str = "listens on http";
    let log = child.stderr.take().context("the server has no log")?;
    let (sender, receiver) = mpsc::channel();
    // Drains the log for as long as the server lives, so that the pipe never fills.
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let is_open = sender
                .as_ref()
                .is_some_and(|sender| sender.send(line).is_ok());
            if !is_open {
                sender = None;
            }
        }
    });
    let mut lines = Vec::new();
    let clock = std::time::Instant::now();
    while let Some(left) = START_LIMIT.checked_sub(clock.elapsed()) {
        let Ok(line) = receiver.recv_timeout(left) else {
            break;
        };
        if let Some((_, url)) = line.split_once(BEFORE)
            && let Some((_, rest)) = url.split_once("://")
        {
            let address: String = rest
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect();
            return address
                .parse()
                .with_context(|| format!("no address in {line:?}"));
        }
        lines.push(line);
    }
    anyhow::bail!("the server logged only: {}", lines.join(" / "))
}
