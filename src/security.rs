//! Security parts: authenticator, admission and TLS, built from the configuration.

use std::{fs, sync::Arc};

use anyhow::{Context as _, bail};
use tidewire_adapters::{
    Admission, AdmissionOptions, JwksUrl, JwksUrlError, TrustedProxies,
    tls::{TlsAcceptor, TlsFile, TlsFiles, file_problems},
};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Keys, LimitOptions, RemoteKeySet, SharedClock, SystemClock,
    TokenRules,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{AuthConfig, Config, LimitsConfig, ServerConfig},
    secret,
};

/// The authenticator for the configured keys. Without keys, which only a server on loopback
/// may lack, it uses the development secret. The key set of an identity provider is returned
/// too, and is not fetched yet.
pub(crate) fn authenticator(
    config: &Config,
    clock: SharedClock,
) -> anyhow::Result<(Authenticator, Option<Arc<RemoteKeySet>>)> {
    let (mut keys, remote) = configured_keys(&config.auth, &clock)?;
    if config.auth.hmac_secret.is_none() && !config.auth.has_public_keys() {
        let secret = secret::own_secret(&config.store.path)?.text;
        keys = keys.secret(secret.as_bytes()).context("hmac_secret")?;
    }
    let AuthConfig {
        anonymous,
        audience,
        issuer,
        leeway,
        ..
    } = &config.auth;
    let anonymous = if *anonymous {
        AnonymousPolicy::Read
    } else {
        AnonymousPolicy::Refuse
    };
    let rules = TokenRules {
        audience: audience.clone(),
        issuer: issuer.clone(),
        leeway: *leeway,
    };
    Ok((Authenticator::new(keys, rules, anonymous, clock), remote))
}

/// Checks the files of keys and certificates, the address of the key set, and the development
/// secret if there is one.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let is_own = config.auth.hmac_secret.is_none() && !config.auth.has_public_keys();
    let mut checks = key_checks(&config.auth);
    checks.extend(tls_checks(&config.server));
    if is_own {
        checks.push(secret::check(&config.store.path));
    }
    let failed = checks.into_iter().filter_map(Result::err);
    failed.map(|error| format!("{error:#}")).collect()
}

/// The results of checking each key of tokens by itself.
fn key_checks(auth: &AuthConfig) -> Vec<anyhow::Result<()>> {
    let clock: SharedClock = Arc::new(SystemClock);
    let none = AuthConfig {
        hmac_secret: None,
        hmac_secret_previous: None,
        public_key_file: None,
        jwks_url: None,
        ..auth.clone()
    };
    let mut alone = vec![
        AuthConfig {
            hmac_secret: auth.hmac_secret.clone(),
            ..none.clone()
        },
        AuthConfig {
            hmac_secret_previous: auth.hmac_secret_previous.clone(),
            ..none.clone()
        },
        AuthConfig {
            public_key_file: auth.public_key_file.clone(),
            ..none.clone()
        },
        AuthConfig {
            jwks_url: auth.jwks_url.clone(),
            jwks_ca: None,
            ..none.clone()
        },
    ];
    // The file of authorities is read for any address of HTTPS.
    if auth.jwks_ca.is_some() && !auth.jwks_url.iter().any(|url| url.starts_with("http:")) {
        alone.push(AuthConfig {
            jwks_url: Some("https://localhost".to_owned()),
            ..none
        });
    }
    let checks = alone.iter();
    checks
        .map(|auth| configured_keys(auth, &clock).map(drop))
        .collect()
}

/// The results of checking each file of TLS by itself, and all of them together.
fn tls_checks(server: &ServerConfig) -> Vec<anyhow::Result<()>> {
    let ServerConfig {
        tls_cert,
        tls_key,
        tls_client_ca,
        ..
    } = server;
    let faults = file_problems(tls_cert.as_ref(), tls_key.as_ref(), tls_client_ca.as_ref());
    if faults.is_empty() {
        let files = tls_files(server);
        return vec![
            files.and_then(|files| files.map_or(Ok(()), |files| acceptor(files).map(drop))),
        ];
    }
    let failed = faults.into_iter().map(|(file, error)| {
        let key = match file {
            TlsFile::Certificate => "server.tls_cert",
            TlsFile::Key => "server.tls_key",
            TlsFile::ClientCa => "server.tls_client_ca",
        };
        Err(error).context(key)
    });
    failed.collect()
}

/// The keys that the configuration names. The key set of an identity provider is returned too.
fn configured_keys(
    config: &AuthConfig,
    clock: &SharedClock,
) -> anyhow::Result<(Keys, Option<Arc<RemoteKeySet>>)> {
    let AuthConfig {
        hmac_secret,
        hmac_secret_previous,
        public_key_file,
        jwks_url,
        jwks_ca,
        ..
    } = config;
    let mut keys = Keys::default();
    if let Some(secret) = hmac_secret {
        keys = keys.secret(secret.as_bytes()).context("auth.hmac_secret")?;
    }
    if let Some(secret) = hmac_secret_previous {
        keys = keys
            .previous_secret(secret.as_bytes())
            .context("auth.hmac_secret_previous")?;
    }
    if let Some(path) = public_key_file {
        let text = fs::read_to_string(path)
            .with_context(|| format!("auth.public_key_file: cannot read {}", path.display()))?;
        keys = keys
            .pem(&text)
            .with_context(|| format!("auth.public_key_file: {}", path.display()))?;
    }
    let mut remote = None;
    if let Some(url) = jwks_url {
        let source = JwksUrl::new(url, jwks_ca.as_deref());
        let source = source.map_err(|error| {
            let key = match error {
                JwksUrlError::Roots(_) => "auth.jwks_ca",
                JwksUrlError::Url(_) | JwksUrlError::Tls(_) => "auth.jwks_url",
            };
            anyhow::Error::from(error).context(key)
        })?;
        let fetched = RemoteKeySet::new(Box::new(source), clock.clone());
        keys = keys.remote(fetched.clone());
        remote = Some(fetched);
    }
    Ok((keys, remote))
}

/// Fetches the key set of an identity provider, and refreshes it until `halt`.
pub(crate) async fn keep_keys(
    remote: Arc<RemoteKeySet>,
    tasks: &TaskTracker,
    halt: &CancellationToken,
) {
    // Bounded in time. The server starts without a response too.
    remote.refresh().await;
    let halt = halt.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = remote.refresh_periodically() => {}
            () = halt.cancelled() => {}
        }
    });
}

/// Reads the certificate and the key.
fn acceptor(files: TlsFiles) -> anyhow::Result<Arc<TlsAcceptor>> {
    let keys = match files.client_ca {
        Some(_) => "server.tls_cert, server.tls_key, server.tls_client_ca",
        None => "server.tls_cert, server.tls_key",
    };
    TlsAcceptor::new(files).context(keys)
}

/// The limits on connections and clients.
pub(crate) fn admission(config: &Config, clock: SharedClock) -> anyhow::Result<Arc<Admission>> {
    let LimitsConfig {
        connections_per_ip,
        connections_per_user,
        messages_per_second,
        bytes_per_second,
        handshakes_per_second,
        concurrent_handshakes,
        handshake_timeout,
        idle_timeout,
        body_timeout,
        response_timeout,
        response_bytes,
        ..
    } = config.limits;
    let options = AdmissionOptions {
        limits: LimitOptions {
            connections_per_ip,
            connections_per_user,
            messages_per_second,
            bytes_per_second,
            handshakes_per_second,
        },
        concurrent_handshakes,
        handshake_timeout,
        idle_timeout,
        body_timeout,
        response_timeout,
        response_bytes,
    };
    Ok(Admission::new(
        options,
        trusted_proxies(&config.server)?,
        clock,
    ))
}

/// The faults of `server.trusted_proxies`, one for each entry.
pub(crate) fn proxy_problems(server: &ServerConfig) -> Vec<String> {
    let entries = server.trusted_proxies.iter();
    let faults = entries.filter_map(|entry| {
        let read = TrustedProxies::parse(&[entry], server.proxy_header);
        read.context("server.trusted_proxies").err()
    });
    faults.map(|fault| format!("{fault:#}")).collect()
}

/// The proxies of `server.trusted_proxies`.
pub(crate) fn trusted_proxies(server: &ServerConfig) -> anyhow::Result<TrustedProxies> {
    TrustedProxies::parse(&server.trusted_proxies, server.proxy_header)
        .context("server.trusted_proxies")
}

/// The TLS acceptor, if TLS is configured. It reloads its files on SIGHUP and when they
/// change, until `halt`.
pub(crate) fn tls(
    config: &ServerConfig,
    tasks: &TaskTracker,
    halt: &CancellationToken,
) -> anyhow::Result<Option<Arc<TlsAcceptor>>> {
    let Some(files) = tls_files(config)? else {
        return Ok(None);
    };
    let acceptor = acceptor(files)?;
    let mut hang_ups = signal(SignalKind::hangup())?;
    let (watched, halt) = (acceptor.clone(), halt.clone());
    tasks.spawn(async move {
        let on_signal = async {
            while hang_ups.recv().await.is_some() {
                watched.reload_and_log();
            }
        };
        tokio::select! {
            () = watched.watch() => {}
            () = on_signal => {}
            () = halt.cancelled() => {}
        }
    });
    Ok(Some(acceptor))
}

/// The files of TLS, or none if TLS is not configured.
pub(crate) fn tls_files(server: &ServerConfig) -> anyhow::Result<Option<TlsFiles>> {
    match (&server.tls_cert, &server.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: server.tls_client_ca.clone(),
        })),
        (None, None) if server.tls_client_ca.is_none() => Ok(None),
        (None, None) => bail!("server.tls_client_ca needs server.tls_cert and server.tls_key"),
        (Some(_), None) => {
            bail!("server.tls_key is missing, expected the private key of server.tls_cert")
        }
        (None, Some(_)) => {
            bail!("server.tls_cert is missing, expected the certificate of server.tls_key")
        }
    }
}
