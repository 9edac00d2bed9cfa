//! Sentinels: watch a master and its replicas, and know which server is the master.
//!
//! All sentinels are asked at once, and the answer of the newest failover counts: a sentinel that is
//! cut off from the others still names the old master. A server has to confirm that it is the master
//! (`ROLE`) before a connection to it is used. The sentinels are asked again each second, and when one of
//! them announces another master (`+switch-master`), since an old master accepts writes that will be lost.
//!
//! <https://redis.io/docs/latest/develop/reference/sentinel-clients/>

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    address::{RedisAddress, RedisOptions},
    connection::RedisConnection,
    error::RedisError,
    resp::Reply,
};

/// Longest wait for the answer of a sentinel.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Time between two questions.
const QUESTIONS: Duration = Duration::from_secs(1);

/// Characters of a host that an error quotes.
const MOST_QUOTED: usize = 64;

/// The usual port of a sentinel.
const PORT: u16 = 26_379;

/// The sentinels of a Redis that fails over. None for a single server.
#[derive(Debug, Clone, Default)]
pub struct Sentinels(Arc<State>);

#[derive(Debug, Default)]
struct State {
    addresses: Vec<RedisAddress>,
    master: Mutex<Option<Master>>,
    /// Changes with the master.
    version: watch::Sender<u64>,
}

/// The master as a sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Number of the failover that made it the master.
    failover: u64,
    /// Version of the sentinels while it is the master.
    pub version: u64,
}

impl Sentinels {
    /// The sentinels at these addresses: `HOST:PORT`, or a URL with a password.
    ///
    /// # Errors
    /// The address that is wrong, and what was expected.
    pub fn new(addresses: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            let url = match text.contains("://") {
                true => text.clone(),
                false => format!("redis://{text}"),
            };
            // Without a port in the text, another one is usual than for a server.
            let address = RedisAddress::parse_with(&url, PORT);
            address.map_err(|_| {
                // A password is before the host, or in the place of the port.
                let host = url.rsplit(['@', '/']).next().unwrap_or_default();
                let host = host.split(':').next().unwrap_or_default();
                let host: String = host.chars().take(MOST_QUOTED).collect();
                format!(
                    "has an address that cannot be read, of the host {host:?}, expected HOST:PORT, redis://:PASSWORD@HOST:PORT or rediss://HOST:PORT"
                )
            })
        };
        let addresses = addresses.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(State {
            addresses,
            ..State::default()
        })))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.addresses.is_empty()
    }

    /// Changes when another server becomes the master.
    pub fn version(&self) -> u64 {
        *self.0.version.borrow()
    }

    /// Waits until a server that was the master at this version is not any more.
    pub async fn replaced(&self, version: u64) {
        let mut versions = self.0.version.subscribe();
        // The sender is in the state, which lives as long as this.
        let _ = versions.wait_for(|newest| *newest != version).await;
    }

    /// The master. None without sentinels.
    ///
    /// # Errors
    /// No sentinel answers, or none knows the master.
    pub async fn find(&self, options: &RedisOptions) -> Result<Option<Master>, RedisError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut questions = JoinSet::new();
        for address in &self.0.addresses {
            let (options, address) = (options.clone(), address.clone());
            questions.spawn(async move {
                let time = ANSWER_TIME.min(options.timeout);
                let asked = timeout(time, ask(&options, &address)).await;
                let late = || Err(RedisError::TimedOut(time.as_millis()));
                (asked.unwrap_or_else(|_| late()), address)
            });
        }
        let mut named = Vec::new();
        let mut fault = RedisError::Connection("no sentinel answers".to_owned());
        while let Some(answer) = questions.join_next().await {
            match answer {
                Ok((Ok(master), _)) => named.push(master),
                Ok((Err(error @ RedisError::Refused(_)), _)) => fault = error,
                Ok((Err(error), address)) => {
                    // A refusal says more.
                    if !matches!(fault, RedisError::Refused(_)) {
                        let text = format!("no sentinel answers: {address}: {error}");
                        fault = RedisError::Connection(text);
                    }
                }
                Err(_) => {}
            }
        }
        match named.is_empty() {
            true => Err(fault),
            false => self.choose(named).map(Some),
        }
    }

    /// Chooses the master of the newest failover among those that sentinels named, and notes it. Of
    /// two that were never replaced, most sentinels decide: one of them may watch another Redis.
    ///
    /// # Errors
    /// It is of an older failover than the known one, and not most sentinels name it: a sentinel
    /// that was cut off does. If most do, they were set up anew.
    fn choose(&self, named: Vec<Master>) -> Result<Master, RedisError> {
        let place = |master: &Master| (master.host.clone(), master.port);
        let names: Vec<_> = named.iter().map(place).collect();
        let votes = |master: &Master| names.iter().filter(|name| **name == place(master)).count();
        let rank = |master: &Master| {
            let known = self.0.master.lock();
            let is_known = known
                .as_ref()
                .is_some_and(|known| place(known) == place(master));
            (master.failover, votes(master), is_known, place(master))
        };
        let newest = named.into_iter().max_by_key(|master| rank(master));
        let Some(mut master) = newest else {
            return Err(RedisError::Connection("no sentinel answers".to_owned()));
        };
        if self.is_older(&master) && votes(&master) <= self.0.addresses.len() / 2 {
            let text = "the sentinels that answer name a master of before a failover";
            return Err(RedisError::Connection(text.to_owned()));
        }
        master.version = self.note(&master);
        Ok(master)
    }

    /// Whether a master is of an older failover than the one that is known.
    fn is_older(&self, master: &Master) -> bool {
        let known = self.0.master.lock();
        known
            .as_ref()
            .is_some_and(|known| master.failover < known.failover)
    }

    /// Notes the master, and returns its version.
    fn note(&self, master: &Master) -> u64 {
        let mut known = self.0.master.lock();
        let is_other = known
            .as_ref()
            .is_none_or(|known| (&known.host, known.port) != (&master.host, master.port));
        if is_other {
            tracing::info!(
                host = master.host,
                port = master.port,
                "the sentinels name the master"
            );
            self.0.version.send_modify(|version| *version += 1);
        }
        *known = Some(master.clone());
        // Under the lock: it belongs to this master.
        self.version()
    }

    /// Asks for the master until it is aborted.
    pub async fn watch(self, options: RedisOptions) {
        let (announced, mut listeners) = (Arc::new(Notify::new()), JoinSet::new());
        for address in &self.0.addresses {
            listeners.spawn(listen(options.clone(), address.clone(), announced.clone()));
        }
        loop {
            tokio::select! {
                () = sleep(QUESTIONS) => {}
                () = announced.notified() => {}
            }
            // Connections find out by themselves what is wrong.
            if let Err(error) = self.find(&options).await {
                tracing::debug!(%error, "the sentinels cannot be asked");
            }
        }
    }
}

/// Notifies of each announcement of another master by one sentinel, until it is aborted.
async fn listen(options: RedisOptions, sentinel: RedisAddress, announced: Arc<Notify>) {
    loop {
        // The questions find out whether a sentinel answers.
        let Err(error) = announcements(&options, &sentinel, &announced).await;
        tracing::debug!(%sentinel, %error, "a sentinel announces nothing");
        sleep(QUESTIONS).await;
    }
}

async fn announcements(
    options: &RedisOptions,
    sentinel: &RedisAddress,
    announced: &Notify,
) -> Result<std::convert::Infallible, RedisError> {
    let mut connection = RedisConnection::open_to(options, sentinel, None).await?;
    connection.call(&["SUBSCRIBE", "+switch-master"]).await?;
    loop {
        // One may have come before the subscription.
        announced.notify_one();
        connection.fill().await?;
        while connection.arrived()?.is_some() {}
    }
}

/// Asks one sentinel.
async fn ask(options: &RedisOptions, sentinel: &RedisAddress) -> Result<Master, RedisError> {
    let mut connection = RedisConnection::open_to(options, sentinel, None).await?;
    let name = &options.address.host;
    let fields = connection
        .call(&["SENTINEL", "MASTER", name])
        .await?
        .array()?;
    let mut fields = fields.into_iter();
    let (mut host, mut port, mut failover) = (None, None, 0);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (name, value) = (name.string()?, value.string()?);
        match &*name {
            "ip" => host = Some(value),
            "port" => port = value.parse().ok(),
            "config-epoch" => failover = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    match (host, port) {
        (Some(host), Some(port)) => Ok(Master {
            host,
            port,
            failover,
            version: 0,
        }),
        _ => Err(RedisError::Protocol(
            "a sentinel names no address of the master".to_owned(),
        )),
    }
}

/// Checks the answer of a server to the question for its role.
pub fn check_role(answer: Result<Reply, RedisError>) -> Result<(), RedisError> {
    let role = match answer {
        Ok(reply) => reply.array()?.into_iter().next(),
        // This user may not ask: a write finds out.
        Err(RedisError::Refused(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    match role {
        Some(Reply::Text(role)) if &*role == b"master" => Ok(()),
        _ => Err(RedisError::Connection(
            "the server that the sentinels name is not the master yet".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(port: u16, failover: u64) -> Master {
        Master {
            host: "host".to_owned(),
            port,
            failover,
            version: 0,
        }
    }

    #[test]
    fn another_master_changes_the_version() {
        let sentinels = Sentinels::new(&["a".to_owned(), "redis://:p@b:1".to_owned()]).unwrap();
        let ports = sentinels.0.addresses.iter().map(|one| one.port);
        assert_eq!(ports.collect::<Vec<_>>(), [PORT, 1]);
        for (named, version) in [
            (master(1, 0), 1),
            (master(1, 1), 1),
            (master(2, 2), 2),
            (master(2, 3), 2),
            (master(1, 4), 3),
        ] {
            assert_eq!(sentinels.note(&named), version, "{named:?}");
            assert_eq!(sentinels.version(), version);
        }
    }

    #[test]
    fn a_sentinel_that_was_cut_off_leads_nobody_back() {
        let addresses = ["a", "b", "c"].map(str::to_owned);
        let sentinels = Sentinels::new(&addresses).unwrap();
        let port = |named: &[(u16, u64)]| {
            let named = named
                .iter()
                .map(|(port, failover)| master(*port, *failover));
            sentinels.choose(named.collect()).map(|master| master.port)
        };
        assert_eq!(port(&[(1, 3), (1, 3), (1, 3)]).unwrap(), 1);
        // One has heard of the failover.
        assert_eq!(port(&[(1, 3), (2, 5), (1, 3)]).unwrap(), 2);
        // It is silent, and the others have not heard of it, or one of them does not answer either.
        let error = port(&[(1, 3)]).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(port(&[(2, 5), (1, 3)]).unwrap(), 2);
        // Most of them name it: they were set up anew.
        assert_eq!(port(&[(1, 0), (1, 0)]).unwrap(), 1);
        assert_eq!(port(&[(1, 0)]).unwrap(), 1);
    }

    #[test]
    fn a_sentinel_of_another_redis_is_outvoted() {
        let addresses = ["a", "b", "c"].map(str::to_owned);
        let sentinels = Sentinels::new(&addresses).unwrap();
        let port = |ports: &[u16]| {
            let named = ports.iter().map(|port| master(*port, 0)).collect();
            sentinels.choose(named).unwrap().port
        };
        // In whatever order they answer.
        assert_eq!(
            [port(&[1, 2, 1]), port(&[1, 1, 2]), port(&[2, 1, 1])],
            [1; 3]
        );
        // One against one: it stays the master.
        assert_eq!([port(&[1, 2]), port(&[2, 1])], [1; 2]);
    }

    #[test]
    fn a_wrong_address_is_named_without_its_password() {
        let error = Sentinels::new(&["redis://:secret@host:x".to_owned()]).unwrap_err();
        assert!(
            error.contains("HOST:PORT") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn only_a_master_is_used() {
        let role = |text: &'static str| Ok(Reply::Array(vec![Reply::Text(text.into())]));
        assert!(check_role(role("master")).is_ok());
        assert!(check_role(role("slave")).is_err_and(|error| error.is_transient()));
        let denied = RedisError::Refused("NOPERM no".to_owned());
        assert!(check_role(Err(denied)).is_ok());
    }
}
