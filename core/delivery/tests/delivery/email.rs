//! E-mail: a real SMTP server with TLS and a login, and the answers of ill ones.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use tidewire_delivery::{
    DeliveryConfig, Job, JobEnd, JobId, MessageId, Outcome, OutgoingMessage, Secret, Senders,
    Target,
    email::{
        AddressHash, EmailAddress, Encryption, UnsubscribeLink, UnsubscribeStep, unsubscribe_step,
    },
};
use tidewire_stream::{ManualClock, SharedClock, UserId};

use crate::{
    CREATED_MS, config, dispatcher::dispatcher, message, message_of, node::Program,
    smtp_server::SmtpServer,
};

fn email_config(port: u16) -> DeliveryConfig {
    config(&format!(
        "timeout = \"5s\"\n[email]\nhost = \"localhost\"\nport = {port}\nencryption = \"none\"\n\
         from = \"Tidewire <notify@example.com>\"\n\
         unsubscribe_url = \"https://app.example.com/v1/unsubscribe\"\n\
         unsubscribe_secrets = [\"{}\"]\n",
        "s".repeat(32)
    ))
}

fn senders(config: &DeliveryConfig) -> Senders {
    let clock: SharedClock = ManualClock::at(CREATED_MS);
    Senders::new(config, &clock).unwrap()
}

async fn attempt(senders: &Senders, message: &OutgoingMessage) -> Outcome {
    let to: EmailAddress = "ada@example.org".parse().unwrap();
    senders.email().unwrap().send(&to, message).await
}

/// The value of a header of a mail that `postal-mime` has read.
fn header(mail: &serde_json::Value, key: &str) -> String {
    let all = mail["headers"].as_array().unwrap();
    let found = all.iter().find(|header| header["key"] == key);
    let found = found.unwrap_or_else(|| panic!("{key} is missing: {mail}"));
    found["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_real_server_accepts_mails_over_tls_with_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let [certificate_file, key_file] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&certificate_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let files = [&certificate_file, &key_file].map(|file| file.to_str().unwrap());
    let mut server = Program::start(
        "smtp-server.mjs",
        &[files[0], files[1], "tidewire", "right"],
    );
    let port = server.line().await["port"].as_u64().unwrap();
    let mut config = email_config(u16::try_from(port).unwrap());
    let email = config.email.as_mut().unwrap();
    email.encryption = Encryption::Starttls;
    email.ca_file = Some(certificate_file);
    email.username = Some("tidewire".to_owned());
    email.password = Some(Secret::new("right"));
    let senders = senders(&config);

    let first = message_of(
        "m1",
        "Zahlung über 0,1 Ξ – erhalten 🌊",
        "a < b & \"c\"\nzweite Zeile",
    );
    assert_eq!(attempt(&senders, &first).await, Outcome::Delivered);
    let mail = server.line().await;
    assert_eq!(mail["secure"], true);
    assert_eq!(mail["user"], "tidewire");
    assert_eq!(mail["to"][0]["address"], "ada@example.org");
    assert_eq!(mail["from"]["address"], "notify@example.com");
    assert_eq!(mail["subject"], "Zahlung über 0,1 Ξ – erhalten 🌊");
    assert_eq!(mail["messageId"], "<m1@example.com>");
    let text = mail["text"].as_str().unwrap().replace("\r\n", "\n");
    assert!(text.contains("a < b & \"c\"\nzweite Zeile"), "{text}");
    let html = mail["html"].as_str().unwrap();
    assert!(html.contains("a &lt; b &amp; &quot;c&quot;<br>"), "{html}");
    assert_eq!(
        header(&mail, "list-unsubscribe-post"),
        "List-Unsubscribe=One-Click"
    );
    let link = header(&mail, "list-unsubscribe");
    let link = link.trim_start_matches('<').trim_end_matches('>');
    assert!(html.contains(link) && text.contains(link));
    let token = link
        .strip_prefix("https://app.example.com/v1/unsubscribe?token=")
        .unwrap();
    let tokens = senders.email().unwrap().unsubscribe_tokens();
    let step = |method| unsubscribe_step(tokens, &method, token).unwrap();
    assert_eq!(step(http::Method::GET), UnsubscribeStep::ShowPage);
    assert_eq!(
        step(http::Method::POST),
        UnsubscribeStep::Unsubscribe(UnsubscribeLink {
            user: UserId::new("ada"),
            address: Some(AddressHash::of("ada@example.org")),
        })
    );

    // A second mail on the same connection: a digest.
    let notifications: Vec<_> = ["first", "second"]
        .iter()
        .flat_map(|title| message_of("n", title, "").content.notifications().to_vec())
        .collect();
    let id = MessageId::new("d1").unwrap();
    let digest = OutgoingMessage::digest(id, UserId::new("ada"), notifications, CREATED_MS);
    assert_eq!(attempt(&senders, &digest).await, Outcome::Delivered);
    let mail = server.line().await;
    assert_eq!(mail["subject"], "2 notifications");
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains("first") && text.contains("second"));

    // A wrong password is the server's configuration, not the mail's fault.
    config.email.as_mut().unwrap().password = Some(Secret::new("wrong"));
    let outcome = attempt(&self::senders(&config), &first).await;
    assert!(
        matches!(outcome, Outcome::Misconfigured { .. }),
        "{outcome:?}"
    );
    // A certificate that is not trusted: no mail is sent in the clear.
    config.email.as_mut().unwrap().ca_file = None;
    let outcome = attempt(&self::senders(&config), &first).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_decides_what_is_next() {
    let outcome = async |answers| {
        let server = SmtpServer::start(answers).await;
        attempt(&senders(&email_config(server.port)), &message("m")).await
    };
    assert_eq!(outcome(&[]).await, Outcome::Delivered);
    for answers in [
        &[(".", "451 try again later")][..],
        &[("RCPT", "450 greylisted")],
        &[("RCPT", "452 mailbox full")],
    ] {
        // Other mails do not wait.
        let found = outcome(answers).await;
        assert!(
            matches!(found, Outcome::RetryMessage { .. }),
            "{answers:?}: {found:?}"
        );
    }
    for answers in [
        &[("EHLO", "421 busy")][..],
        &[("MAIL", "421 too many connections")],
        &[("RCPT", "421 closing")],
        &[(".", "")],
        &[("MAIL", "")],
    ] {
        let found = outcome(answers).await;
        assert!(
            matches!(found, Outcome::Retry { after: None, .. }),
            "{answers:?}: {found:?}"
        );
    }
    let Outcome::Permanent { reason } = outcome(&[("RCPT", "550 no such user")]).await else {
        panic!("a permanent answer");
    };
    assert_eq!(reason, "permanent error (550): no such user");
    let found = outcome(&[(".", "554 spam")]).await;
    assert!(matches!(found, Outcome::Permanent { .. }));
    let found = outcome(&[("MAIL", "530 login first")]).await;
    assert!(matches!(found, Outcome::Misconfigured { .. }), "{found:?}");
}

#[tokio::test]
async fn a_refused_recipient_is_no_refused_login() {
    let outcome = async |answers| {
        let server = SmtpServer::start(answers).await;
        let mut config = email_config(server.port);
        let email = config.email.as_mut().unwrap();
        email.username = Some("tidewire".to_owned());
        email.password = Some(Secret::new("right"));
        attempt(&senders(&config), &message("m")).await
    };
    let found = outcome(&[("RCPT", "530 5.7.1 relaying denied")]).await;
    assert!(matches!(found, Outcome::RetryMessage { .. }), "{found:?}");
    let found = outcome(&[("AUTH", "535 wrong password")]).await;
    assert!(matches!(found, Outcome::Misconfigured { .. }), "{found:?}");
    let found = outcome(&[("AUTH", "454 try again later")]).await;
    assert!(matches!(found, Outcome::Retry { .. }), "{found:?}");
}

/// A server that does not offer what the configuration needs refuses no mail: mails wait for the
/// operator, who finds the key in the log.
#[tokio::test]
async fn a_server_without_what_is_configured_is_a_fault_of_the_configuration() {
    let reason = async |answers, encryption, login: bool| {
        let server = SmtpServer::start(answers).await;
        let mut config = email_config(server.port);
        let email = config.email.as_mut().unwrap();
        email.encryption = encryption;
        if login {
            email.username = Some("tidewire".to_owned());
            email.password = Some(Secret::new("right"));
        }
        match attempt(&senders(&config), &message("m")).await {
            Outcome::Misconfigured { reason } => reason,
            found => panic!("{answers:?}: {found:?}"),
        }
    };
    for (answers, encryption, login, key) in [
        // STARTTLS is not offered.
        (&[][..], Encryption::Starttls, false, "encryption"),
        (&[], Encryption::Starttls, true, "encryption"),
        // No login is offered, or none that the library knows.
        (&[("EHLO", "250 test")], Encryption::None, true, "username"),
        (
            &[("EHLO", "250-test\r\n250 AUTH CRAM-MD5 NTLM")],
            Encryption::None,
            true,
            "username",
        ),
        // The login is refused, also with a code that others use for mails.
        (
            &[("AUTH", "535 wrong password")],
            Encryption::None,
            true,
            "password",
        ),
        (&[("AUTH", "550 go away")], Encryption::None, true, "host"),
        (
            &[("EHLO", "554 no service")],
            Encryption::None,
            false,
            "host",
        ),
        (
            &[("MAIL", "530 login first")],
            Encryption::None,
            false,
            "username",
        ),
    ] {
        let found = reason(answers, encryption, login).await;
        let key = format!("`delivery.email.{key}`");
        assert!(found.contains(&key), "{answers:?}: {found}");
    }
    // The mail is at fault: the server works without it.
    let server = SmtpServer::start(&[]).await;
    let mail = message_of("m", "Zahlung über 0,1 Ξ", "x");
    let to: EmailAddress = "jörg@example.org".parse().unwrap();
    let senders = senders(&email_config(server.port));
    let found = senders.email().unwrap().send(&to, &mail).await;
    assert!(matches!(found, Outcome::Permanent { .. }), "{found:?}");
}

#[tokio::test]
async fn a_repetition_is_the_same_mail() {
    let answers = &[(".", "451 try again later"), (".", "451 try again later")];
    let mut server = SmtpServer::start(answers).await;
    let senders = senders(&email_config(server.port));
    let mut heads = Vec::new();
    for _ in 0..2 {
        attempt(&senders, &message("m1")).await;
        let mail = server.mail().await;
        assert!(mail.contains("Message-ID: <m1@example.com>\r\n"), "{mail}");
        heads.push(mail.split("boundary").next().unwrap().to_owned());
    }
    assert_eq!(heads[0], heads[1]);
}

#[tokio::test]
async fn nobody_listens_or_answers() {
    let mut config = email_config(1);
    let outcome = attempt(&senders(&config), &message("m")).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.email.as_mut().unwrap().port = Some(silent.local_addr().unwrap().port());
    config.timeout = Duration::from_secs(1);
    let outcome = attempt(&senders(&config), &message("m")).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_digest_that_is_refused_for_now_is_sent_again_whole() {
    let mut server = SmtpServer::start(&[(".", "451 try again later")]).await;
    let mut config = email_config(server.port);
    config.first_pause = Duration::from_millis(100);
    let notifications: Vec<_> = ["first", "second"]
        .iter()
        .flat_map(|title| message_of("n", title, "").content.notifications().to_vec())
        .collect();
    let id = MessageId::new("d1").unwrap();
    let digest = OutgoingMessage::digest(id, UserId::new("ada"), notifications, CREATED_MS);
    let (dispatcher, mut finished) = dispatcher(Arc::new(senders(&config)));
    let target = Target::Email("ada@example.org".parse().unwrap());
    dispatcher.offer(Job::new(JobId::new("j1"), target, digest));
    let (job, end) = finished.recv().await.unwrap();
    assert_eq!((job.id.as_str(), end), ("j1", JobEnd::Delivered));
    for _ in 0..2 {
        let mail = server.mail().await;
        assert!(mail.contains("first") && mail.contains("second"), "{mail}");
        assert!(mail.contains("Message-ID: <d1@example.com>"), "{mail}");
    }
    dispatcher.stop().await;
}
