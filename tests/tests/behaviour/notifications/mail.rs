//! Mail end to end: the real binary sends to an SMTP server that is not ours, and the link in a
//! mail unsubscribes.

use std::{collections::HashSet, path::PathBuf};

use reqwest::{Method, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{HttpResponse, Program, Server, ServerBuilder, Transport, tls::Authority};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::{builder, connect, done, note, notify, to_user};

/// An SMTP server with TLS and a login.
struct MailServer {
    program: Program,
    port: u64,
    /// Its certificate, and the store of the servers.
    folder: TempDir,
    authority: PathBuf,
    seen: HashSet<String>,
}

impl MailServer {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let authority = Authority::new();
        authority.sign(&["localhost"]).write(&certificate, &key);
        let files = [&certificate, &key].map(|path| path.to_str().unwrap());
        let arguments = [files[0], files[1], "tidewire", "right"];
        let mut program = Program::tool("smtp-server.mjs", &arguments);
        let port = program.json().await["port"].as_u64().unwrap();
        Self {
            program,
            port,
            authority: authority.write(folder.path()),
            folder,
            seen: HashSet::new(),
        }
    }

    /// A server that mails what its users have not read for a moment.
    fn builder(&self) -> ServerBuilder {
        let (port, authority) = (self.port, &self.authority);
        builder(&self.folder).table(&format!(
            "[delivery.email]\nhost = \"localhost\"\nport = {port}\nencryption = \"starttls\"\n\
             ca_file = {authority:?}\nusername = \"tidewire\"\npassword = \"right\"\n\
             from = \"Tidewire <notify@example.com>\"\ndelay = \"10ms\"\n\
             unsubscribe_url = \"https://app.example.com/v1/unsubscribe\"\n\
             unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]\n"
        ))
    }

    /// The next mail. Mails come in the order of their notifications. One whose acceptance the
    /// server has not stored before a crash comes again, as the same one.
    async fn next(&mut self) -> Value {
        loop {
            let mail = self.program.json().await;
            let id = mail["messageId"].as_str().unwrap();
            if self.seen.insert(id.to_owned()) {
                return mail;
            }
        }
    }

    /// Expects no further mail: the mails to bob before and after this moment are the next ones.
    async fn expect_none(&mut self, server: &Server) {
        for title in ["First", "Second"] {
            notify(server, &to_user("bob", title)).await;
            let mail = self.next().await;
            assert_eq!(mail["to"][0]["address"], "bob@example.org", "{mail}");
            assert_eq!(mail["subject"], title);
        }
    }
}

/// The value of a header of a mail.
fn header_of(mail: &Value, key: &str) -> String {
    let mut headers = mail["headers"].as_array().unwrap().iter();
    let found = headers.find(|header| header["key"] == key);
    let found = found.unwrap_or_else(|| panic!("{key} is missing: {mail}"));
    found["value"].as_str().unwrap().to_owned()
}

/// Sends a request to the link of a mail, on this server.
async fn follow(server: &Server, method: Method, link: &str, body: &'static str) -> HttpResponse {
    let path = link.strip_prefix("https://app.example.com").unwrap();
    let request = server.http().request(method, server.url(path));
    let form = "application/x-www-form-urlencoded";
    server
        .send(request.header(header::CONTENT_TYPE, form).body(body))
        .await
}

/// A mail server that does not offer STARTTLS, which the configuration demands, refuses no mail: the
/// log names the key, and the mail waits for the operator.
#[tokio::test]
async fn a_mail_server_without_what_is_configured_costs_no_mail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = BufReader::new(socket);
            let mut line = String::new();
            let mut reply = "220 plain\r\n";
            while socket.write_all(reply.as_bytes()).await.is_ok() {
                line.clear();
                if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                    break;
                }
                reply = "250 ok\r\n";
            }
        }
    });
    let folder = TempDir::new().unwrap();
    let server = builder(&folder)
        .table(&format!(
            "[delivery.email]\nhost = \"127.0.0.1\"\nport = {port}\nencryption = \"starttls\"\n\
             from = \"notify@example.com\"\ndelay = \"10ms\"\n\
             unsubscribe_url = \"https://app.example.com/v1/unsubscribe\"\n\
             unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]\n"
        ))
        .start()
        .await;
    set_email(&server, "ada").await;
    notify(&server, &to_user("ada", "Waits")).await;
    let line = server.log_line("a delivery channel is misconfigured").await;
    for part in ["ERROR", "`delivery.email.encryption`: starttls, which"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let method = "AdminService/ListDeadLetters";
    let letters = server.call(method, None, &json!({})).await.json();
    assert_eq!(letters["items"], json!([]), "{letters}");
    plain.abort();
}

async fn set_email(server: &Server, user: &str) {
    let address = format!("{user}@example.org");
    let body = json!({"user": user, "address": address});
    let _ = done(server, "SetEmail", &body).await;
}

#[tokio::test]
async fn a_mail_reaches_a_user_without_a_connection_and_its_link_unsubscribes() {
    let mut mails = MailServer::start().await;
    let mut server = mails.builder().start().await;
    for user in ["ada", "bob", "cleo"] {
        set_email(&server, user).await;
    }
    // A user with a connection gets no mail.
    let _cleo = connect(Transport::WebSocketJson, &server, "cleo").await;
    notify(&server, &to_user("cleo", "On the screen")).await;

    let mut paid = to_user("ada", "Zahlung über 0,1 Ξ 🌊");
    paid["notification"]["body"] = json!("a < b");
    paid["notification"]["actions"] =
        json!([{"label": "Receipt", "url": "https://example.com/receipt"}]);
    notify(&server, &paid).await;
    let mail = mails.next().await;
    assert_eq!(mail["to"][0]["address"], "ada@example.org", "{mail}");
    assert_eq!(mail["from"]["address"], "notify@example.com");
    assert_eq!(mail["subject"], "Zahlung über 0,1 Ξ 🌊");
    assert_eq!(
        (&mail["secure"], &mail["user"]),
        (&json!(true), &json!("tidewire"))
    );
    assert_eq!(
        header_of(&mail, "list-unsubscribe-post"),
        "List-Unsubscribe=One-Click"
    );
    let link = header_of(&mail, "list-unsubscribe");
    let link = link.strip_prefix('<').unwrap().strip_suffix('>').unwrap();
    let [text, html] = ["text", "html"].map(|part| mail[part].as_str().unwrap());
    for part in [link, "https://example.com/receipt"] {
        assert!(text.contains(part), "no {part} in {text}");
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert!(
        text.contains("a < b") && html.contains("a &lt; b"),
        "{mail}"
    );

    // A scanner follows the link: the mails go on.
    let page = follow(&server, Method::GET, link, "").await;
    assert_eq!(
        (page.status, page.content_type.as_str()),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.body.contains("<form method=\"post\">"),
        "{}",
        page.body
    );
    assert_eq!(follow(&server, Method::HEAD, link, "").await.status, 200);
    let forged = link.replace("token=", "token=A");
    assert_eq!(follow(&server, Method::POST, &forged, "").await.status, 400);
    notify(&server, &to_user("ada", "After the scanner")).await;
    let mail = mails.next().await;
    assert_eq!(mail["subject"], "After the scanner");
    assert_eq!(header_of(&mail, "list-unsubscribe"), format!("<{link}>"));

    // A mail program unsubscribes with one click: the mails end, and nobody else's.
    let one_click = "List-Unsubscribe=One-Click";
    for _ in 0..2 {
        let done = follow(&server, Method::POST, link, one_click).await;
        assert_eq!(done.status, 200, "{}", done.body);
    }
    notify(&server, &to_user("ada", "Not by mail")).await;
    mails.expect_none(&server).await;

    // It holds after a crash, when the same address is set again, and for broadcasts.
    server.kill().await;
    let server = mails.builder().start().await;
    set_email(&server, "ada").await;
    notify(&server, &to_user("ada", "Not by mail either")).await;
    mails.expect_none(&server).await;
    let page = done(&server, "ListNotifications", &json!({"user": "ada"})).await;
    assert_eq!(page["unreadCount"], 4, "{page}");
    let everyone = json!({"everyone": true, "notification": note("To all")});
    notify(&server, &everyone).await;
    for _ in 0..2 {
        let mail = mails.next().await;
        assert_eq!(mail["subject"], "To all");
        assert_ne!(mail["to"][0]["address"], "ada@example.org", "{mail}");
    }
    mails.expect_none(&server).await;
}
