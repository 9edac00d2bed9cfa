//! Node programs of `tests/tools`: receivers that are not ours. Each prints lines of JSON.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// A running program. It is killed on drop.
pub(crate) struct Program {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools");
        assert!(
            tools.join("node_modules/standardwebhooks").is_dir(),
            "libraries are missing: run `npm install` in tests/tools"
        );
        let mut child = Command::new("node")
            .arg(tools.join(script))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            lines,
        }
    }

    /// The next line of its output.
    pub(crate) async fn line(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap();
        serde_json::from_str(&line.expect("the program runs")).unwrap()
    }
}
