//! E-mail sender: mails with a text and an HTML part over SMTP.
//!
//! Every mail has headers by which mail programs unsubscribe with one click (RFC 8058), and a
//! Message-ID made of the message's id: a repetition after a lost answer has the same one.
//!
//! | answer of the server | outcome |
//! |---|---|
//! | 2xx | delivered |
//! | 421, 432, 454, no answer, no connection, TLS failure | retry, and all mails wait |
//! | other 4xx: a greylisted recipient, a full mailbox | retry of this mail alone |
//! | 530, 534, 535, 538, and it refuses the login | configuration error: mails wait |
//! | other 5xx, or it lacks what the mail needs | permanent |
//! | the same, and it refuses a connection without a mail too, or offers no STARTTLS or no login | configuration error: mails wait |
//!
//! A server may use the codes of a refused login for one recipient too, and those of a refused mail
//! for the connection. After a refusal, the sender therefore connects once more without a mail: if
//! that succeeds, the mail was at fault.

mod compose;
mod unsubscribe;

use std::{sync::OnceLock, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{
        AsyncSmtpTransportBuilder, Error as SmtpError, PoolConfig,
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use reqwest::Url;
use serde::Deserialize;
use tokio::{runtime::Handle, time::timeout};

pub use lettre::Address as EmailAddress;
pub use unsubscribe::{
    AddressHash, CONFIRMATION_PAGE, ONE_CLICK_BODY, UnsubscribeError, UnsubscribeLink,
    UnsubscribeStep, UnsubscribeTokens, unsubscribe_step,
};

use self::compose::{Envelope, compose};
use crate::{DeliveryError, Outcome, OutgoingMessage, config::EmailConfig, text::one_line};

/// Bytes of an unsubscribe secret at least.
const MIN_SECRET_BYTES: usize = 32;

/// The command that makes an unsubscribe secret.
const SECRET_COMMAND: &str = "openssl rand -base64 32";

/// The password in the documentation.
const PLACEHOLDER: &str = "…";

/// Commands of one mail whose answers are waited for: connect, EHLO, STARTTLS, EHLO, AUTH, MAIL,
/// RCPT, DATA, end of data. The whole takes a few of the longest waits, not nine.
const WAITS_PER_MAIL: u32 = 3;

/// Time for which a connection is kept for the next mail.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Characters of an error that a reason quotes.
const MAX_QUOTE: usize = 300;

/// Encryption of the connection to the SMTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// The connection begins plain and must become encrypted. Port 587.
    #[default]
    Starttls,
    /// The connection is encrypted from its beginning. Port 465.
    Tls,
    /// None, for a relay on this machine. Port 25.
    None,
}

impl Encryption {
    fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Sends messages over one SMTP server.
pub struct EmailSender {
    builder: AsyncSmtpTransportBuilder,
    /// Made at the first mail: the library's pool of connections needs a runtime.
    transport: OnceLock<AsyncSmtpTransport<Tokio1Executor>>,
    envelope: Envelope,
    timeout: Duration,
    encryption: Encryption,
    /// Whether the server is logged in to.
    has_login: bool,
}

impl std::fmt::Debug for EmailSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("EmailSender");
        debug
            .field("from", &self.envelope.from)
            .finish_non_exhaustive()
    }
}

impl Drop for EmailSender {
    fn drop(&mut self) {
        // The library's pool panics when it is dropped outside of a runtime, which is the case at
        // the end of a process at most.
        if Handle::try_current().is_err() {
            std::mem::forget(self.transport.take());
        }
    }
}

/// The results of checking each part of the configuration of e-mail that a sender is made of.
pub(crate) fn check(config: &EmailConfig) -> Vec<Result<(), DeliveryError>> {
    let mut checks = vec![mailbox("from", &config.from).map(drop)];
    let reply_to = config.reply_to.as_deref();
    checks.extend(reply_to.map(|text| mailbox("reply_to", text).map(drop)));
    let host = check_host(&config.host);
    // A host that is none has no TLS, which is no fault of its own.
    if host.is_ok() && config.encryption != Encryption::None {
        checks.push(tls(config).map(drop));
    }
    checks.push(host);
    checks.push(credentials(config).map(drop));
    checks.push(unsubscribe_url(&config.unsubscribe_url).map(drop));
    checks.push(tokens(config).map(drop));
    checks
}

fn check_host(host: &str) -> Result<(), DeliveryError> {
    if host.is_empty() {
        return Err(invalid("host", "empty, expected the SMTP server's name"));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    match host.bytes().all(is_part) {
        true => Ok(()),
        false => Err(invalid(
            "host",
            format!("{host:?}, expected a name or an address alone, such as \"smtp.example.com\""),
        )),
    }
}

fn invalid(key: &str, problem: impl Into<String>) -> DeliveryError {
    DeliveryError::invalid(format!("delivery.email.{key}"), problem)
}

/// Reads a mailbox of the configuration.
fn mailbox(key: &str, text: &str) -> Result<Mailbox, DeliveryError> {
    text.parse().map_err(|_| {
        invalid(
            key,
            format!("{text:?}, expected an address like `Tidewire <notify@example.com>`"),
        )
    })
}

impl EmailSender {
    /// A sender. Nothing is connected to before the first mail.
    pub(crate) fn new(config: &EmailConfig, timeout: Duration) -> Result<Self, DeliveryError> {
        let from = mailbox("from", &config.from)?;
        let reply_to = config.reply_to.as_deref();
        let reply_to = reply_to.map(|text| mailbox("reply_to", text)).transpose()?;
        let builder = builder(config, from.email.domain(), timeout)?;
        let envelope = Envelope {
            unsubscribe_url: unsubscribe_url(&config.unsubscribe_url)?,
            tokens: tokens(config)?,
            from,
            reply_to,
        };
        Ok(Self {
            builder,
            transport: OnceLock::new(),
            envelope,
            timeout,
            encryption: config.encryption,
            has_login: config.username.is_some(),
        })
    }

    /// The tokens of unsubscribe links, for the handler of `unsubscribe_url`.
    #[must_use]
    pub fn unsubscribe_tokens(&self) -> &UnsubscribeTokens {
        &self.envelope.tokens
    }

    /// Makes one attempt to send a message to an address.
    pub async fn send(&self, to: &EmailAddress, message: &OutgoingMessage) -> Outcome {
        let mail = match compose(&self.envelope, to, message) {
            Ok(mail) => mail,
            Err(error) => {
                return Outcome::permanent(format!("the mail cannot be written: {error}"));
            }
        };
        let build = || self.builder.clone().build();
        let sent = self.transport.get_or_init(build).send(mail);
        match timeout(self.timeout * WAITS_PER_MAIL, sent).await {
            Ok(Ok(_)) => Outcome::Delivered,
            Ok(Err(error)) => self.conclude(&error).await,
            Err(_) => Outcome::retry("no answer in time"),
        }
    }

    /// The outcome of a failed attempt, after a test that shows whether the mail or the
    /// configuration is at fault.
    async fn conclude(&self, error: &SmtpError) -> Outcome {
        match outcome(error) {
            // Without a login, the server demands one of every mail.
            Outcome::Misconfigured { reason } => {
                match self.has_login && matches!(self.test().await, Some(Ok(true))) {
                    true => Outcome::RetryMessage { reason },
                    false => Outcome::Misconfigured {
                        reason: self.configuration_fault(error),
                    },
                }
            }
            Outcome::Permanent { reason } => match self.test().await {
                Some(Err(refusal)) if refusal.is_permanent() || refusal.is_client() => {
                    Outcome::Misconfigured {
                        reason: self.configuration_fault(&refusal),
                    }
                }
                _ => Outcome::Permanent { reason },
            },
            outcome => outcome,
        }
    }

    /// Connects and logs in without a mail. None if there is no answer in time.
    async fn test(&self) -> Option<Result<bool, SmtpError>> {
        let test = self.transport.get()?.test_connection();
        timeout(self.timeout * WAITS_PER_MAIL, test).await.ok()
    }

    /// The reason of a refusal that every mail meets, with the keys to look at.
    fn configuration_fault(&self, error: &SmtpError) -> String {
        let reason = reason(error);
        match error.status().map(u16::from) {
            // The library refuses a server that does not offer what the configuration needs.
            None if self.encryption == Encryption::Starttls && reason.contains("STARTTLS") => {
                "`delivery.email.encryption`: starttls, which the SMTP server does not offer on this port, \
                 expected `tls` or another `delivery.email.port`, or `none` for a relay on this machine"
                    .to_owned()
            }
            None if self.has_login => {
                "`delivery.email.username`: set, and the SMTP server offers no login with PLAIN or LOGIN, \
                 expected another `delivery.email.encryption` or `delivery.email.port`, or no login"
                    .to_owned()
            }
            Some(530 | 538) => {
                format!("`delivery.email.encryption` or `delivery.email.username`: {reason}")
            }
            Some(534 | 535) => format!("`delivery.email.password`: {reason}"),
            _ => format!("`delivery.email.host`: {reason}"),
        }
    }

    /// Closes idle connections.
    pub async fn close(&self) {
        if let Some(transport) = self.transport.get() {
            transport.shutdown().await;
        }
    }
}

fn builder(
    config: &EmailConfig,
    domain: &str,
    timeout: Duration,
) -> Result<AsyncSmtpTransportBuilder, DeliveryError> {
    check_host(&config.host)?;
    let pool = PoolConfig::new()
        .max_size(u32::try_from(config.concurrency).unwrap_or(1))
        .idle_timeout(IDLE_TIMEOUT);
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
        .port(config.port.unwrap_or(config.encryption.port()))
        .hello_name(ClientId::Domain(domain.to_owned()))
        .timeout(Some(timeout))
        .pool_config(pool);
    builder = match config.encryption {
        Encryption::None => builder,
        Encryption::Starttls => builder.tls(Tls::Required(tls(config)?)),
        Encryption::Tls => builder.tls(Tls::Wrapper(tls(config)?)),
    };
    if let Some(credentials) = credentials(config)? {
        builder = builder.credentials(credentials);
    }
    Ok(builder)
}

/// The login, if one is configured.
fn credentials(config: &EmailConfig) -> Result<Option<Credentials>, DeliveryError> {
    match (&config.username, &config.password) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => {
            if config.encryption == Encryption::None && !is_local(&config.host) {
                return Err(invalid(
                    "encryption",
                    "none, expected `starttls` or `tls`: without it the password is sent readable",
                ));
            }
            if password.expose() == PLACEHOLDER {
                return Err(invalid("password", "a placeholder, expected the password"));
            }
            let password = password.expose().to_owned();
            Ok(Some(Credentials::new(username.clone(), password)))
        }
        (Some(_), None) => Err(invalid("password", "missing, expected with `username`")),
        (None, Some(_)) => Err(invalid("username", "missing, expected with `password`")),
    }
}

/// Whether a host is this machine.
fn is_local(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn tls(config: &EmailConfig) -> Result<TlsParameters, DeliveryError> {
    let mut builder = TlsParameters::builder(config.host.clone());
    builder = match &config.ca_file {
        None => builder.certificate_store(CertificateStore::WebpkiRoots),
        Some(path) => {
            let mut builder = builder.certificate_store(CertificateStore::None);
            for certificate in crate::tls::read_certificates("delivery.email.ca_file", path)? {
                let certificate = Certificate::from_der(certificate.to_vec());
                builder = builder.add_root_certificate(
                    certificate.map_err(|error| invalid("ca_file", error.to_string()))?,
                );
            }
            builder
        }
    };
    let built = builder.build_rustls();
    built.map_err(|error| invalid("host", error.to_string()))
}

fn tokens(config: &EmailConfig) -> Result<UnsubscribeTokens, DeliveryError> {
    let secrets = config.unsubscribe_secrets.iter();
    for secret in secrets.clone() {
        let bytes = secret.expose().len();
        if bytes < MIN_SECRET_BYTES {
            return Err(invalid(
                "unsubscribe_secrets",
                format!(
                    "a secret of {bytes} bytes, expected {MIN_SECRET_BYTES} at least, as `{SECRET_COMMAND}` makes them"
                ),
            ));
        }
        if secret.expose().contains("openssl rand") {
            return Err(invalid(
                "unsubscribe_secrets",
                format!(
                    "the command in place of its output, expected what `{SECRET_COMMAND}` prints"
                ),
            ));
        }
    }
    let secrets: Vec<_> = secrets.cloned().collect();
    UnsubscribeTokens::new(secrets)
        .ok_or_else(|| invalid("unsubscribe_secrets", "none, expected one at least"))
}

fn unsubscribe_url(text: &str) -> Result<Url, DeliveryError> {
    // RFC 8058 demands HTTPS. A server on loopback may be tried without.
    let url = Url::parse(text).ok().filter(|url| {
        let host = url.host_str().unwrap_or_default();
        url.scheme() == "https" || url.scheme() == "http" && is_local(host)
    });
    url.ok_or_else(|| {
        invalid(
            "unsubscribe_url",
            format!("{text:?}, expected an https: URL of this server, or an http: one on loopback"),
        )
    })
}

/// An error with its causes, on one line.
fn reason(error: &SmtpError) -> String {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // The library writes some causes itself.
        let text = inner.to_string();
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = inner.source();
    }
    one_line(&reason).chars().take(MAX_QUOTE).collect()
}

fn outcome(error: &SmtpError) -> Outcome {
    let reason = reason(error);
    let code = error.status().map(u16::from);
    match code {
        Some(530 | 534 | 535 | 538) => Outcome::Misconfigured { reason },
        _ if error.is_permanent() => Outcome::Permanent { reason },
        // The client itself cannot send the mail, for example to an address that needs SMTPUTF8.
        None if error.is_client() => Outcome::Permanent { reason },
        // The service closes, or the login has to wait (RFC 4954).
        Some(421 | 432 | 454) => Outcome::retry(reason),
        Some(400..=499) => Outcome::RetryMessage { reason },
        _ => Outcome::retry(reason),
    }
}
