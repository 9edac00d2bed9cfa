//! Sentinels: watch a master and its replicas, and know which server is the master.
//!
//! All sentinels are asked at once, and the answer of the newest failover counts: a sentinel that is
//! cut off from the others still names the old master. A server has to confirm that it is the master
//! (`ROLE`) before a connection to it is used. The sentinels are asked again each second, and when one of
//! them announces another master (`+switch-master`), since an old master accepts writes that will be lost.
//! A server that a failover promotes is used before: see [`succession`](crate::succession).
//!
//! <https://redis.io/docs/latest/develop/reference/sentinel-clients/>

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    address::{RedisAddress, RedisOptions},
    answers::{announcement, ask, role_of},
    connection::RedisConnection,
    error::RedisError,
    resp,
    succession::{Announcement, EVENTS, HOLD, Place, ROLE_TIME, ROLES, SELECTION, Successor},
};

/// Longest wait for the answer of a sentinel.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Time between two questions.
const QUESTIONS: Duration = Duration::from_secs(1);

/// Time for which connections are opened to the known master without a question: the sentinels are asked
/// each second anyway, and one that does not answer would hold each connection up.
const FRESH: Duration = Duration::from_secs(2);

/// Time for which the other sentinels are waited for once most have answered, if an answer is urgent.
const MINORITY: Duration = Duration::from_millis(100);

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
    master: Mutex<Option<Known>>,
    /// Changes with the master.
    version: watch::Sender<u64>,
}

/// The known master.
#[derive(Debug)]
struct Known {
    master: Master,
    /// When the sentinels named it.
    at: Instant,
    /// Until when it is not used, since a failover has selected another server.
    held_until: Option<Instant>,
    /// Set if it was used before they did.
    successor: Option<Successor>,
}

/// The master as a sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Number of the failover that made it the master.
    pub(crate) failover: u64,
    /// Whether the sentinel that named it is about to replace it.
    pub(crate) is_replaced: bool,
    /// Version of the sentinels while it is the master.
    pub version: u64,
}

impl Master {
    /// Its host and port.
    pub(crate) fn place(&self) -> Place {
        (self.host.clone(), self.port)
    }
}

/// How long all answers of sentinels are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Until each has answered, or its time is over.
    ForAll,
    /// Until most have, and a moment longer.
    ForMost,
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

    /// Waits for a pause between two connections, which another master ends. `version` is that of
    /// before the first connection.
    pub async fn pause(&self, version: u64, pause: Duration) {
        // Either way the next connection is due.
        let _ = timeout(pause, self.replaced(version)).await;
    }

    /// The master to connect to. None without sentinels.
    ///
    /// # Errors
    /// Those of [`find`](Self::find).
    pub(crate) async fn current(
        &self,
        options: &RedisOptions,
    ) -> Result<Option<Master>, RedisError> {
        self.check_hold()?;
        if let Some(known) = &*self.0.master.lock()
            && known.at.elapsed() < FRESH
        {
            return Ok(Some(known.master.clone()));
        }
        let named = self.ask_all(options, Wait::ForAll).await?;
        self.check_hold()?;
        Ok(named)
    }

    /// # Errors
    /// The known master is not used for now.
    fn check_hold(&self) -> Result<(), RedisError> {
        let known = self.0.master.lock();
        let until = known.as_ref().and_then(|known| known.held_until);
        match until.is_some_and(|until| Instant::now() < until) {
            true => {
                let text = "a failover has selected another master, and not promoted it yet";
                Err(RedisError::Connection(text.to_owned()))
            }
            false => Ok(()),
        }
    }

    /// The master. None without sentinels.
    ///
    /// # Errors
    /// No sentinel answers, or none knows the master.
    pub async fn find(&self, options: &RedisOptions) -> Result<Option<Master>, RedisError> {
        self.ask_all(options, Wait::ForAll).await
    }

    async fn ask_all(
        &self,
        options: &RedisOptions,
        wait: Wait,
    ) -> Result<Option<Master>, RedisError> {
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
        let mut deadline = Instant::now() + ANSWER_TIME + MINORITY;
        while let Ok(Some(answer)) = timeout_at(deadline, questions.join_next()).await {
            if wait == Wait::ForMost && named.len() == self.0.addresses.len() / 2 {
                // With this answer.
                deadline = Instant::now() + MINORITY;
            }
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
    fn choose(&self, mut named: Vec<Master>) -> Result<Master, RedisError> {
        if let Some(known) = &mut *self.0.master.lock()
            && let Some(successor) = &mut known.successor
        {
            successor.stand_in(&mut named, Instant::now());
        }
        let names: Vec<_> = named.iter().map(Master::place).collect();
        let votes = |master: &Master| {
            let place = master.place();
            names.iter().filter(|name| **name == place).count()
        };
        let rank = |master: &Master| {
            let known = self.0.master.lock();
            let is_known = known
                .as_ref()
                .is_some_and(|known| known.master.place() == master.place());
            (master.failover, votes(master), is_known, master.place())
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
            .is_some_and(|known| master.failover < known.master.failover)
    }

    /// Notes the master, and returns its version.
    fn note(&self, master: &Master) -> u64 {
        let mut known = self.0.master.lock();
        let before = known.take();
        let is_other = before
            .as_ref()
            .is_none_or(|known| known.master.place() != master.place());
        if is_other {
            tracing::info!(
                host = master.host,
                port = master.port,
                "the sentinels name the master"
            );
            self.0.version.send_modify(|version| *version += 1);
        }
        // Under the lock: it belongs to this master.
        let version = self.version();
        let before = before.filter(|_| !is_other);
        let (now, held) = (
            Instant::now(),
            before.as_ref().and_then(|one| one.held_until),
        );
        // Once in a failover: this node may not have heard of the selection.
        let held_until = match master.is_replaced {
            true => held.or(Some(now + HOLD)),
            false => held.filter(|until| now < *until),
        };
        *known = Some(Known {
            master: Master {
                version,
                ..master.clone()
            },
            at: now,
            held_until,
            successor: before.and_then(|known| known.successor),
        });
        version
    }

    /// Ends all connections to a master that a failover is about to replace, and opens none for
    /// [`HOLD`]: what it acknowledged from now on would be lost.
    fn hold(&self, replaced: &Place) {
        let mut known = self.0.master.lock();
        if let Some(known) = &mut *known
            && known.master.place() == *replaced
        {
            known.held_until = Some(Instant::now() + HOLD);
            self.0.version.send_modify(|version| *version += 1);
            known.master.version = self.version();
        }
    }

    /// Whether a failover from this master is one from the known one, or from that before it.
    fn is_current(&self, replaced: &Place) -> bool {
        let known = self.0.master.lock();
        known.as_ref().is_some_and(|known| {
            let successor = known.successor.as_ref();
            known.master.place() == *replaced
                || successor.is_some_and(|one| one.stands_for(replaced, Instant::now()))
        })
    }

    /// Uses a server that says that it is a master, and was selected in place of another one.
    fn succeed(&self, replica: Place, replaced: &Place) {
        if !self.is_current(replaced) {
            return;
        }
        let mut known = self.0.master.lock();
        let Some(known) = &mut *known else { return };
        if known.master.place() == replica {
            return;
        }
        tracing::info!(
            host = replica.0,
            port = replica.1,
            "the master that a failover has promoted is used"
        );
        let now = Instant::now();
        // If another one was promoted in vain before, the sentinels still name the one before that.
        let before = Master {
            host: replaced.0.clone(),
            port: replaced.1,
            ..known.master.clone()
        };
        known.successor = Some(Successor::of(&before, replica.clone(), now));
        self.0.version.send_modify(|version| *version += 1);
        (known.master.host, known.master.port) = replica;
        known.master.version = self.version();
        known.at = now;
        known.held_until = None;
    }

    /// Lets the answers of sentinels count as they are: the replacement of this master was given up.
    fn give_up(&self, replaced: &Place) {
        if let Some(known) = &mut *self.0.master.lock() {
            let is_it = |one: &mut Successor| one.stands_for(replaced, Instant::now());
            drop(known.successor.take_if(is_it));
            known.held_until = None;
        }
    }

    /// Asks for the master until it is aborted.
    pub async fn watch(self, options: RedisOptions) {
        let (announced, mut listeners) = (Arc::new(Notify::new()), JoinSet::new());
        for address in &self.0.addresses {
            let (sentinels, address) = (self.clone(), address.clone());
            listeners.spawn(sentinels.listen(options.clone(), address, announced.clone()));
        }
        loop {
            tokio::select! {
                () = sleep(QUESTIONS) => {}
                () = announced.notified() => {}
            }
            // Connections find out by themselves what is wrong.
            if let Err(error) = self.ask_all(&options, Wait::ForMost).await {
                tracing::debug!(%error, "the sentinels cannot be asked");
            }
        }
    }

    /// Acts on what one sentinel announces, until it is aborted.
    async fn listen(self, options: RedisOptions, sentinel: RedisAddress, announced: Arc<Notify>) {
        loop {
            // The questions find out whether a sentinel answers.
            let Err(error) = self.hear(&options, &sentinel, &announced).await;
            tracing::debug!(%sentinel, %error, "a sentinel announces nothing");
            sleep(QUESTIONS).await;
        }
    }

    async fn hear(
        &self,
        options: &RedisOptions,
        sentinel: &RedisAddress,
        announced: &Notify,
    ) -> Result<std::convert::Infallible, RedisError> {
        let mut connection = RedisConnection::open_to(options, sentinel, None).await?;
        let mut command = Vec::new();
        resp::encode(&mut command, &[&["SUBSCRIBE"][..], &EVENTS].concat());
        connection.send(&command).await?;
        // Of one failover at a time: a newer selection replaces the older one.
        let mut selections = JoinSet::new();
        loop {
            connection.fill().await?;
            while let Some(reply) = connection.arrived()? {
                // Also after the confirmation: one may have come before the subscription.
                announced.notify_one();
                let Some(announcement) = announcement(reply, &options.address.host) else {
                    continue;
                };
                match announcement {
                    Announcement::Switched => {}
                    Announcement::Selected { replica, master } => {
                        selections.abort_all();
                        let (sentinels, options) = (self.clone(), options.clone());
                        selections.spawn(sentinels.follow(options, replica, master));
                    }
                    Announcement::GivenUp(master) => {
                        selections.abort_all();
                        self.give_up(&master);
                    }
                }
            }
            while selections.try_join_next().is_some() {}
        }
    }

    /// Asks a selected server for its role until it is a master, which is then used.
    async fn follow(self, options: RedisOptions, replica: Place, replaced: Place) {
        self.hold(&replaced);
        let deadline = Instant::now() + SELECTION;
        let server = Master {
            host: replica.0.clone(),
            port: replica.1,
            failover: 0,
            is_replaced: false,
            version: 0,
        };
        let mut connection = None;
        while Instant::now() < deadline && self.is_current(&replaced) {
            let role = timeout(ROLE_TIME, role_of(&mut connection, &options, &server)).await;
            match role.unwrap_or_else(|_| Err(RedisError::TimedOut(ROLE_TIME.as_millis()))) {
                Ok(true) => return self.succeed(replica, &replaced),
                Ok(false) => {}
                // This user may not ask: the sentinels will name the server.
                Err(RedisError::Refused(_)) => return,
                // Its sentinel ends all connections when it promotes it.
                Err(_) => connection = None,
            }
            sleep(ROLES).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        succession::CONFIRMATION,
        tls::{CertificateFiles, RedisTls},
    };

    fn options(sentinels: &Sentinels) -> RedisOptions {
        RedisOptions {
            address: RedisAddress::parse("redis://name").unwrap(),
            cluster: crate::Cluster::default(),
            sentinels: sentinels.clone(),
            tls: RedisTls::new(&CertificateFiles::default()).unwrap(),
            prefix: "test".to_owned(),
            timeout: ANSWER_TIME,
            buffer_bytes: 1,
            comparison: RedisOptions::COMPARISON,
            protocol: crate::NodeProtocol::CURRENT,
        }
    }

    fn master(port: u16, failover: u64) -> Master {
        Master {
            host: "host".to_owned(),
            port,
            failover,
            is_replaced: false,
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
    fn a_promoted_server_stands_for_the_one_before_until_it_is_named() {
        let addresses = ["a", "b", "c"].map(str::to_owned);
        let sentinels = Sentinels::new(&addresses).unwrap();
        let place = |port| ("host".to_owned(), port);
        let port = |named: Vec<Master>| sentinels.choose(named).map(|master| master.port);
        let all = |port, failover| vec![master(port, failover); 3];
        assert_eq!(port(all(1, 3)).unwrap(), 1);
        let version = sentinels.version();
        // It is selected in the place of another Redis, of which a stray sentinel tells.
        sentinels.succeed(place(9), &place(8));
        assert_eq!(sentinels.version(), version);
        sentinels.succeed(place(2), &place(1));
        assert_eq!(sentinels.version(), version + 1);
        // Nobody names it yet; then its leader does, and the others do not.
        assert_eq!(port(all(1, 3)).unwrap(), 2);
        let leader = Master {
            is_replaced: true,
            ..master(1, 4)
        };
        assert_eq!(port(vec![leader, master(1, 3), master(1, 3)]).unwrap(), 2);
        assert_eq!(
            port(vec![master(2, 4), master(1, 3), master(1, 3)]).unwrap(),
            2
        );
        assert_eq!(sentinels.version(), version + 1);
        // A later failover goes back.
        assert_eq!(
            port(vec![master(1, 5), master(2, 4), master(2, 4)]).unwrap(),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_promoted_in_vain_is_left() {
        let sentinels = Sentinels::new(&["a".to_owned()]).unwrap();
        let place = |port| ("host".to_owned(), port);
        let port = |named: Master| sentinels.choose(vec![named]).unwrap().port;
        let leading = || Master {
            is_replaced: true,
            ..master(1, 3)
        };
        assert_eq!(port(master(1, 3)), 1);
        sentinels.succeed(place(2), &place(1));
        // The failover is given up.
        sentinels.give_up(&place(1));
        assert_eq!(port(master(1, 3)), 1);
        // Or the sentinel forgets it.
        sentinels.succeed(place(2), &place(1));
        tokio::time::advance(CONFIRMATION * 2 / 3).await;
        assert_eq!(port(leading()), 2);
        tokio::time::advance(CONFIRMATION * 2 / 3).await;
        assert_eq!(port(master(1, 3)), 2);
        tokio::time::advance(CONFIRMATION).await;
        assert_eq!(port(master(1, 3)), 1);
        // Another one is promoted instead of the one before.
        sentinels.succeed(place(2), &place(1));
        sentinels.succeed(place(3), &place(1));
        assert_eq!(port(leading()), 3);
        assert_eq!(port(master(3, 4)), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_is_not_used_once_another_one_is_selected() {
        let sentinels = Sentinels::new(&["a".to_owned()]).unwrap();
        let place = |port| ("host".to_owned(), port);
        let options = options(&sentinels);
        let current = async || sentinels.current(&options).await;
        sentinels.choose(vec![master(1, 3)]).unwrap();
        let before = current().await.unwrap().unwrap();
        sentinels.hold(&place(8));
        assert_eq!(sentinels.version(), before.version);
        sentinels.hold(&place(1));
        assert_ne!(sentinels.version(), before.version);
        let error = current().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        sentinels.succeed(place(2), &place(1));
        let next = current().await.unwrap().unwrap();
        assert_eq!((next.port, next.version), (2, sentinels.version()));
        // Nothing is promoted: it is used again.
        sentinels.hold(&place(2));
        assert!(current().await.is_err());
        tokio::time::advance(HOLD).await;
        let next = current().await.unwrap().unwrap();
        assert_eq!((next.port, next.version), (2, sentinels.version()));
        // Of another failover this node learns from an answer.
        let replaced = Master {
            is_replaced: true,
            ..master(2, 4)
        };
        sentinels.choose(vec![master(2, 4)]).unwrap();
        sentinels.choose(vec![replaced.clone()]).unwrap();
        assert!(current().await.is_err());
        tokio::time::advance(HOLD).await;
        sentinels.choose(vec![replaced]).unwrap();
        assert_eq!(current().await.unwrap().unwrap().port, 2);
    }

    #[test]
    fn a_wrong_address_is_named_without_its_password() {
        let error = Sentinels::new(&["redis://:secret@host:x".to_owned()]).unwrap_err();
        assert!(
            error.contains("HOST:PORT") && !error.contains("secret"),
            "{error}"
        );
    }
}
