//! SMTP server of the tests: answers commands as scripted, for answers that a well-behaved
//! server does not give.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// A server. It ends on drop.
pub(crate) struct SmtpServer {
    pub(crate) port: u16,
    mails: mpsc::UnboundedReceiver<String>,
    _tasks: JoinSet<()>,
}

impl SmtpServer {
    /// A server that answers these commands with these lines, and accepts all others. The pairs
    /// `(".", line)` answer the ends of the mails, one each; an empty line closes the connection.
    pub(crate) async fn start(answers: &'static [(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, mails) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let count = Arc::new(AtomicUsize::new(0));
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, answers, count.clone(), sender.clone()));
            }
        });
        Self {
            port,
            mails,
            _tasks: tasks,
        }
    }

    /// The next mail, as it was sent.
    pub(crate) async fn mail(&mut self) -> String {
        self.mails.recv().await.unwrap()
    }
}

async fn serve(
    socket: TcpStream,
    answers: &[(&str, &str)],
    count: Arc<AtomicUsize>,
    mails: mpsc::UnboundedSender<String>,
) {
    let mut socket = BufReader::new(socket);
    let mut reply = Some("220 ready".to_owned());
    while let Some(text) = reply.take().filter(|text| !text.is_empty()) {
        if socket
            .write_all(format!("{text}\r\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
        if text.starts_with("354") {
            let Some(mail) = read_mail(&mut socket).await else {
                return;
            };
            let _ = mails.send(mail);
            let number = count.fetch_add(1, Ordering::SeqCst);
            reply = Some(answer(answers, ".", number, "250 accepted"));
            continue;
        }
        let mut line = String::new();
        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let command = line[..4].to_ascii_uppercase();
        let usual = match command.as_str() {
            "EHLO" => "250-test\r\n250 AUTH PLAIN",
            "DATA" => "354 go on",
            "AUTH" => "235 welcome",
            _ => "250 ok",
        };
        reply = Some(answer(answers, &command, 0, usual));
    }
}

fn answer(answers: &[(&str, &str)], command: &str, number: usize, usual: &str) -> String {
    let mut listed = answers.iter().filter(|(listed, _)| *listed == command);
    let found = listed.nth(number);
    found.map_or(usual, |(_, text)| text).to_owned()
}

async fn read_mail(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let mut mail = String::new();
    loop {
        let start = mail.len();
        if socket.read_line(&mut mail).await.ok()? == 0 {
            return None;
        }
        if &mail[start..] == ".\r\n" {
            mail.truncate(start);
            return Some(mail);
        }
    }
}
