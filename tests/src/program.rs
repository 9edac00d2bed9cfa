//! Program: a receiver in Node that is not ours, which prints a line for each thing it receives.
//!
//! Those of `tests/tools` need libraries: `npm install` there installs them.

use std::{ffi::OsStr, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::within;

/// A running program. It is killed on drop.
#[derive(Debug)]
pub struct Program {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts a script of `tests/tools`.
    ///
    /// # Panics
    /// Node or the libraries are missing.
    #[must_use]
    pub fn tool(script: &str, arguments: &[&str]) -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
        assert!(
            tools.join("node_modules/smtp-server").is_dir(),
            "libraries are missing: run `npm install` in tests/tools"
        );
        let mut command = Command::new("node");
        command.arg(tools.join(script)).args(arguments);
        Self::start(&mut command)
    }

    /// Starts a script of `examples` with these variables of the environment.
    ///
    /// # Panics
    /// Node is missing.
    #[must_use]
    pub fn example<V: AsRef<OsStr>>(script: &str, environment: &[(&str, V)]) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut command = Command::new("node");
        command.arg(examples.join(script));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Self::start(&mut command)
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self {
            _child: child,
            lines,
        }
    }

    /// Waits for the next line.
    ///
    /// # Panics
    /// No line comes.
    pub async fn line(&mut self) -> String {
        let line = within("a line of a program", self.lines.next_line()).await;
        line.expect("text").expect("the program runs")
    }

    /// Waits for the next line, and parses it as JSON.
    ///
    /// # Panics
    /// No line comes, or it is not JSON.
    pub async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line} is not JSON"))
    }
}
