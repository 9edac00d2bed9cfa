//! Capacity: as many connections as the system permits, also at the same moment.

#![cfg(target_os = "linux")]

use std::{fs, process::Stdio};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;
use tidewire_tests::{Server, binary, within};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::Command,
};

/// The soft and the hard limit on open files of a process.
fn open_files(pid: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.unwrap().split_whitespace().map(str::to_owned);
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[tokio::test]
async fn a_server_raises_its_limit_on_open_files() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidewire.toml");
    fs::write(&file, "[prices]\nsymbols = []\n").unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["--port", "0", "--config"])
        .arg(&file)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    within("the address in the log", async {
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains("listens on") {
                return;
            }
        }
        panic!("the server ended");
    })
    .await;
    let (soft, hard) = open_files(child.id().unwrap());
    assert_eq!(soft, hard);
    assert_ne!(soft, "64");
}

/// More clients than the queue of the standard library holds. They come back at the same moment
/// after a restart.
const CLIENTS: usize = 400;

#[tokio::test]
async fn clients_that_come_at_the_same_moment_wait_for_a_busy_server() {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    prlimit(None, Resource::Nofile, raised).unwrap();
    let server = Server::start().await;
    kill_process(server.pid(), Signal::STOP).unwrap();
    let mut connections = Vec::new();
    for _ in 0..CLIENTS.min(most) {
        let connected = within("a connection", TcpStream::connect(server.address())).await;
        connections.push(connected.unwrap());
    }
    kill_process(server.pid(), Signal::CONT).unwrap();
    assert_eq!(server.get("/healthz").await.status, 200);
}
