//! The server under test and those that stand beside it: started, measured, stopped.

pub(crate) mod config;
pub(crate) mod venue;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) use config::ServerConfig;
pub(crate) use venue::Venue;

use crate::{
    machine::{self, CpuTime, Memory},
    peer,
};

/// A server says where it listens within this time.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The binary under test.
    Tidewire,
    /// This tool's own loop: one write for each subscriber and message.
    Bare,
    /// The same, but all messages of one read share one write.
    Gather,
    /// uWebSockets, inside of Bun.
    Bun,
}

/// Where programs are and which CPUs they may use.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) tidewire: PathBuf,
    pub(crate) bun: Option<PathBuf>,
    /// Of the server, and of this tool. Empty where nothing is pinned.
    pub(crate) server_cpus: Vec<usize>,
    pub(crate) own_cpus: Vec<usize>,
    /// What was sent in a window may arrive so long after its end, in nanoseconds.
    pub(crate) grace: u64,
    /// Further variables of the binary's environment.
    pub(crate) environment: Vec<(String, String)>,
}

/// A running server. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Its configuration and data.
    folder: TempDir,
}

impl Server {
    /// Starts a program and waits until it listens.
    ///
    /// # Errors
    /// It does not, with what it said.
    pub(crate) fn start(
        place: &Place,
        program: Program,
        config: &ServerConfig,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        Self::start_in(folder, place, program, config)
    }

    /// Starts a program in a folder that may hold what an earlier one left.
    ///
    /// # Errors
    /// It does not listen.
    pub(crate) fn start_in(
        folder: TempDir,
        place: &Place,
        program: Program,
        config: &ServerConfig,
    ) -> anyhow::Result<Self> {
        let mut command = command(folder.path(), place, program, config)?;
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEWIRE_") {
                command.env_remove(name);
            }
        }
        command
            .envs(place.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // A process has the CPUs of the thread that starts it.
        let is_pinned = !place.server_cpus.is_empty();
        if is_pinned {
            machine::keep_to(&place.server_cpus)?;
        }
        let spawned = command.spawn();
        if is_pinned {
            machine::keep_to(&place.own_cpus)?;
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

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> CpuTime {
        CpuTime::of(self.child.id())
    }

    /// The memory that it takes.
    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the process has no id")?;
        kill_process(pid, Signal::TERM).context("the server cannot be asked to end")
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The operating system does not say.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it and gives its folder.
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
    place: &Place,
    program: Program,
    config: &ServerConfig,
) -> anyhow::Result<Command> {
    match program {
        Program::Tidewire => {
            let file = folder.join("tidewire.toml");
            fs::write(&file, config.toml()).context("the configuration cannot be written")?;
            let mut command = Command::new(&place.tidewire);
            command.arg("serve").arg("--config").arg(file);
            Ok(command)
        }
        Program::Bare | Program::Gather => {
            let mut command = Command::new(env::current_exe()?);
            command.arg("bare");
            if program == Program::Gather {
                command.arg("--gather");
            }
            Ok(command)
        }
        Program::Bun => {
            let bun = place
                .bun
                .as_ref()
                .context("no `bun` was given: name it with --bun")?;
            let script = folder.join("server.js");
            fs::write(&script, peer::BUN_SCRIPT).context("the script cannot be written")?;
            let mut command = Command::new(bun);
            command.arg(script);
            Ok(command)
        }
    }
}

/// Waits for the line that says where the server listens.
fn listening(child: &mut Child) -> anyhow::Result<SocketAddr> {
    const BEFORE: &str = "listens on http://";
    let log = child.stderr.take().context("the server has no log")?;
    let (said, heard) = mpsc::channel();
    // Reads on for as long as the server lives, so that its log never fills.
    std::thread::spawn(move || {
        let mut said = Some(said);
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let is_heard = said.as_ref().is_some_and(|said| said.send(line).is_ok());
            if !is_heard {
                said = None;
            }
        }
    });
    let mut lines = Vec::new();
    let clock = std::time::Instant::now();
    while let Some(left) = START_LIMIT.checked_sub(clock.elapsed()) {
        let Ok(line) = heard.recv_timeout(left) else {
            break;
        };
        if let Some((_, rest)) = line.split_once(BEFORE) {
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
    anyhow::bail!("it said only: {}", lines.join(" / "))
}
