//! Engine: the evaluator with its store, its inputs and its delivery.
//!
//! ```text
//! values ─▶ inputs ─▶ judge ─▶ writer ─▶ store ─▶ sink: `alert` push
//!           lanes     evaluator  batches     │
//!                                            └──▶ delivery ─▶ sink: notification hub
//! ```
//!
//! Three tasks: the judge applies values, the writer stores what they cause and runs requests, and
//! the delivery hands notifications over. A fire leaves once it is stored, with its rule's state
//! and its outgoing notification, in one batch.

mod answers;
mod commands;
mod config;
mod delivery;
mod error;
mod evaluations;
mod id;
mod inputs;
mod judge;
mod load;
mod log;
mod notice;
mod outgoing;
mod pending;
mod planning;
mod reading;
mod record;
mod saving;
mod staging;
mod summaries;
mod tables;
mod tasks;
mod unknown_commit;
mod view;
mod writer;

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rust_decimal::Decimal;
use tidewire_proto::v1::{
    AlertEvent, AlertRule, EvaluateRequest, NotifyRequest, TransactionState, evaluate_request,
};
use tidewire_store::{KeyPeriods, SharedStore, StoreError};
use tidewire_stream::{ChannelName, SharedClock, UserId};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use self::{
    answers::Reply,
    commands::Command,
    evaluations::Evaluation,
    id::{Id, IdSource},
    inputs::Inputs,
    judge::{Clocks, Judge},
    planning::draft,
};
use crate::{Catalog, Input, Now, Phase, Rule, Sources, Subject, Tick};

pub use commands::EvaluationOutcome;
pub use config::AlertConfig;
pub use error::AlertError;
pub use tables::{STORE_TABLES, USER_TABLES};
pub use tasks::AlertTasks;

/// Commands that wait for the writer. Callers wait beyond it.
const QUEUE: usize = 1_024;

/// The problem of a request without the id of a rule.
const MISSING_ID: &str = "missing, expected the id of the alert";

/// Time that a request waits for the store. A store that hangs answers later or never.
const STORE_WAIT: Duration = Duration::from_secs(10);

/// Bytes of an idempotency key at most.
const MOST_KEY_BYTES: usize = 255;

/// A future that a sink returns.
pub type SinkFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a notification is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkError {
    /// At present. It is handed over again.
    Unavailable(String),
    /// For ever.
    Refused(String),
}

/// Receiver of what fired, outside of this crate.
pub trait AlertSink: Send + Sync + 'static {
    /// Publishes a fire or its retraction to the user's connections. It is stored already. Never
    /// blocks.
    fn publish(&self, user: &UserId, event: AlertEvent);

    /// Whether somebody may see what is published for a user. Such fires are stored first. Never
    /// blocks.
    fn is_watched(&self, _user: &str) -> bool {
        false
    }

    /// Notifies users, with one result for each request, in their order. A request with the same
    /// idempotency key notifies once.
    fn notify(&self, requests: Vec<NotifyRequest>) -> SinkFuture<'_, Vec<Result<(), SinkError>>>;

    /// Follows a transaction for a rule of a user, as long as [`AlertEngine::users_of`] has anybody.
    /// Its states go to [`AlertEngine::transaction`]. Never blocks.
    fn follow(&self, user: &str, chain: u64, hash: &str);
}

/// The catalog of the composition root, shared by the engine's tasks.
pub type SharedCatalog = Arc<dyn Catalog + Send + Sync>;

/// Counts of the engine since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlertStats {
    /// Values that were judged.
    pub evaluated: u64,
    /// Rules that these values touched.
    pub touched: u64,
    /// Fires that were stored, and retractions.
    pub fired: u64,
    /// Fires that share a notification with others, because of the limit of a minute.
    pub summarised: u64,
    /// Outgoing notifications that wait, up to 256.
    pub waiting: u64,
    /// Rules.
    pub rules: u64,
}

#[derive(Debug, Default)]
struct Counters {
    fired: AtomicU64,
    summarised: AtomicU64,
    waiting: AtomicU64,
}

impl Counters {
    fn add_fired(&self, count: u64) {
        self.fired.fetch_add(count, Ordering::Relaxed);
    }

    fn add_summarised(&self, count: u64) {
        self.summarised.fetch_add(count, Ordering::Relaxed);
    }

    fn set_waiting(&self, count: u64) {
        self.waiting.store(count, Ordering::Relaxed);
    }
}

/// State that the tasks and the handles share.
pub(crate) struct Shared {
    store: SharedStore,
    sink: Arc<dyn AlertSink>,
    catalog: SharedCatalog,
    config: AlertConfig,
    clocks: Clocks,
    ids: IdSource,
    /// The days under which idempotency keys are stored.
    key_periods: KeyPeriods,
    judge: Mutex<Judge>,
    inputs: Inputs,
    commands: mpsc::Sender<Command>,
    commands_added: Notify,
    /// Notified when the writer has something to store.
    outputs_added: Notify,
    /// Notified when the judge may have something to do.
    rules_changed: Notify,
    /// Notified when changes of rules are stored and judged, or are known not to be stored.
    rules_settled: Notify,
    /// Notified when there are outgoing notifications.
    outgoing_added: Notify,
    /// When fires were last published.
    published_at: Mutex<Option<Instant>>,
    /// Users whose log may be too long.
    to_trim: Mutex<HashSet<Arc<str>>>,
    /// The symbols of the rules that were loaded.
    symbols_of_rules: Mutex<HashSet<Box<str>>>,
    /// Whether a request waits for the fires of its value.
    has_evaluations: AtomicBool,
    /// Why alerts do not work any more.
    fault: OnceLock<String>,
    counters: Counters,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The alert engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AlertEngine(Arc<Shared>);

impl AlertEngine {
    /// Opens the engine on its tables in `store`, and loads all rules.
    ///
    /// # Errors
    /// The configuration is refused, or the store cannot be read.
    pub async fn open(
        store: SharedStore,
        sink: Arc<dyn AlertSink>,
        catalog: SharedCatalog,
        clock: SharedClock,
        config: AlertConfig,
    ) -> Result<(Self, AlertTasks), AlertError> {
        config.check()?;
        let ids = load::ids(&store).await?;
        let key_periods = KeyPeriods::load(&store, tables::KEYS).await?;
        let (commands, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            judge: Mutex::new(Judge::new(config.catch_up_ms)),
            store,
            sink,
            catalog,
            config,
            clocks: Clocks::new(clock),
            ids,
            key_periods,
            inputs: Inputs::default(),
            commands,
            commands_added: Notify::new(),
            outputs_added: Notify::new(),
            rules_changed: Notify::new(),
            rules_settled: Notify::new(),
            outgoing_added: Notify::new(),
            published_at: Mutex::default(),
            to_trim: Mutex::default(),
            symbols_of_rules: Mutex::default(),
            has_evaluations: AtomicBool::new(false),
            fault: OnceLock::new(),
            counters: Counters::default(),
        });
        shared.load().await?;
        let tasks = AlertTasks::new(shared.clone(), receiver);
        Ok((Self(shared), tasks))
    }

    /// Registers a rule. Repeating it under its key registers one rule.
    ///
    /// # Errors
    /// A field is refused, the user has too many rules, the key was used with another rule, or the
    /// store cannot be written.
    pub async fn register(
        &self,
        user: &str,
        rule: AlertRule,
        key: Option<String>,
    ) -> Result<AlertRule, AlertError> {
        let user = check_user(user)?;
        if let Some(key) = &key
            && !(1..=MOST_KEY_BYTES).contains(&key.len())
        {
            let problem = format!("{} bytes, expected 1 to {MOST_KEY_BYTES}", key.len());
            return Err(AlertError::invalid("idempotencyKey", problem));
        }
        if !rule.id.is_empty() {
            let problem = "given, expected none: the server assigns it";
            return Err(AlertError::invalid("id", problem));
        }
        let rule = Box::new(draft(rule));
        self.run(|reply| Command::Register {
            user,
            rule,
            key,
            reply,
        })
        .await
    }

    /// Changes the given fields of a rule. An empty text or a zero removes a name, a template, a
    /// cooldown, an expiry or a snooze.
    ///
    /// # Errors
    /// The user has no such rule, a field is refused, or the store cannot be written.
    pub async fn update(&self, user: &str, rule: AlertRule) -> Result<AlertRule, AlertError> {
        let user = check_user(user)?;
        if rule.id.is_empty() {
            return Err(AlertError::invalid("id", MISSING_ID));
        }
        let rule = Box::new(rule);
        self.run(|reply| Command::Update { user, rule, reply })
            .await
    }

    /// Deletes a rule. A fire that is stored is still delivered, and stays in the log.
    ///
    /// # Errors
    /// The user has no such rule, or the store cannot be written.
    pub async fn delete(&self, user: &str, id: &str) -> Result<(), AlertError> {
        let (user, id) = (check_user(user)?, rule_id(id)?);
        self.run(|reply| Command::Delete { user, id, reply }).await
    }

    /// Fires a rule manually, whatever its state. The state does not change.
    ///
    /// # Errors
    /// The user has no such rule, or the store cannot be written.
    pub async fn trigger(&self, user: &str, id: &str) -> Result<AlertEvent, AlertError> {
        let (user, id) = (check_user(user)?, rule_id(id)?);
        self.run(|reply| Command::Trigger { user, id, reply }).await
    }

    /// Judges a value of a back end by the rules of all users. Returns after its fires are stored.
    ///
    /// # Errors
    /// A field is refused, or the store cannot be written.
    pub async fn evaluate(
        &self,
        request: EvaluateRequest,
    ) -> Result<EvaluationOutcome, AlertError> {
        let (subject, input, sources) = match request.value {
            Some(evaluate_request::Value::Price(price)) => {
                let source = Some(price.source.as_deref().unwrap_or("evaluate"));
                let price = self.price_of(&price, "price", source)?;
                (price.subject, price.input, price.sources)
            }
            Some(evaluate_request::Value::Portfolio(portfolio)) => self.portfolio(&portfolio)?,
            None => {
                let problem = "missing, expected `price` or `portfolio`";
                return Err(AlertError::invalid("price", problem));
            }
        };
        let input = Box::new(input);
        self.run(|reply| {
            Command::Evaluate(Evaluation {
                subject,
                input,
                sources,
                reply,
            })
        })
        .await
    }

    fn portfolio(
        &self,
        portfolio: &tidewire_proto::v1::PortfolioValue,
    ) -> Result<(Subject, Input, Sources), AlertError> {
        let user = check_user(&portfolio.user).map_err(|error| error.within("portfolio"))?;
        if portfolio.id.is_empty() {
            let problem = "missing, expected the id of the portfolio";
            return Err(AlertError::invalid("portfolio.id", problem));
        }
        let value = reading::exact(portfolio.value.as_ref(), "portfolio.value")?;
        if value < Decimal::ZERO {
            let problem = format!("{value}, expected 0 or more");
            return Err(AlertError::invalid("portfolio.value", problem));
        }
        // As names of symbols, in any case.
        let currency = portfolio.currency.to_ascii_uppercase();
        if !self.0.catalog.has_currency(&currency) {
            let shown: String = portfolio.currency.chars().take(16).collect();
            let known = self.0.catalog.currencies();
            let expected = crate::catalog::one_of(&known, "expected one such as USD");
            let problem = match shown.is_empty() {
                true => format!("missing, {expected}"),
                false => format!("unknown currency {shown:?}, {expected}"),
            };
            return Err(AlertError::invalid("portfolio.currency", problem));
        }
        let sources: Sources = Some(["evaluate".into()].into());
        let input = Input::Portfolio {
            tick: Tick {
                value,
                formed_us: portfolio.timestamp.saturating_mul(1_000),
                sources: sources.clone(),
            },
            currency: currency.into(),
        };
        let subject = Subject::Portfolio {
            user: user.into(),
            portfolio: portfolio.id.as_str().into(),
        };
        Ok((subject, input, sources))
    }

    /// Adds a price. It is judged soon. Never blocks.
    pub fn price<'a>(
        &self,
        symbol: &str,
        (price, formed_us): (Decimal, i64),
        volume: Option<Decimal>,
        sources: impl Iterator<Item = &'a str> + Clone,
    ) {
        self.0
            .inputs
            .add_symbol(symbol, sources, |sources| Input::Price {
                tick: Tick {
                    value: price,
                    formed_us,
                    sources,
                },
                volume,
            });
    }

    /// Notes that no source of a symbol counts any more.
    pub fn stale(&self, symbol: &str) {
        let inputs = &self.0.inputs;
        inputs.add_symbol(symbol, std::iter::empty(), |_| Input::Stale);
    }

    /// Adds the gas price of a chain, in gwei.
    pub fn gas(&self, chain: u64, gwei: Decimal, formed_us: i64) {
        let input = Input::Gas(Tick::new(gwei, formed_us));
        self.0.inputs.add(&Subject::Gas(chain), input);
    }

    /// Adds the state of a transaction, and whether a reorg took a state back.
    pub fn transaction(
        &self,
        chain: u64,
        hash: &str,
        state: TransactionState,
        is_retraction: bool,
    ) {
        let subject = Subject::Transaction {
            chain,
            hash: hash.to_ascii_lowercase().into(),
        };
        if self.0.inputs.has(&subject) {
            let input = Input::Transaction {
                state,
                is_retraction,
                observed_us: self.0.clocks.now_ms().saturating_mul(1_000),
            };
            self.0.inputs.add(&subject, input);
        }
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> AlertStats {
        let shared = &self.0;
        let (judged, rules) = {
            let judge = shared.judge.lock();
            (judge.evaluator.counters(), judge.rules())
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AlertStats {
            evaluated: judged.inputs,
            touched: judged.touched,
            fired: load(&shared.counters.fired),
            summarised: load(&shared.counters.summarised),
            waiting: load(&shared.counters.waiting),
            rules: rules as u64,
        }
    }

    /// Why alerts do not work any more, as after a panic of a task. None while they do.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.0.fault.get().map(String::as_str)
    }

    async fn run<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AlertError> {
        self.0.check()?;
        let (reply, result) = oneshot::channel();
        let run = async {
            let sent = self.0.commands.send(command(reply)).await;
            sent.map_err(|_| AlertError::Stopped)?;
            self.0.commands_added.notify_one();
            result.await.map_err(|_| AlertError::Stopped)?
        };
        let ended = tokio::time::timeout(STORE_WAIT, run).await;
        let ended = ended.unwrap_or(Err(AlertError::Late(STORE_WAIT)));
        // A task that panicked drops the replies.
        match (ended, self.0.check()) {
            (Err(AlertError::Stopped), Err(fault)) => Err(fault),
            (ended, _) => ended,
        }
    }
}

impl Shared {
    /// Has the transactions of a user's rule followed, if the rule can fire.
    fn follow(&self, (id, user): (Id, &str), judge: &Judge, rule: &Rule, now: Now) {
        let is_over = match judge.phase(id, now) {
            Some(Phase::Exhausted | Phase::Expired | Phase::Disabled | Phase::Stopped) | None => {
                true
            }
            Some(_) => false,
        };
        if is_over {
            return;
        }
        rule.condition.each_leaf(&mut |leaf| {
            if let Subject::Transaction { chain, hash } = &leaf.subject
                && judge.evaluator.subject(&leaf.subject).is_some()
            {
                self.sink.follow(user, *chain, hash);
            }
        });
    }

    /// Refuses requests after a task panicked: what it left may not be right.
    fn check(&self) -> Result<(), AlertError> {
        match self.fault.get() {
            Some(fault) => Err(AlertError::Broken(fault.clone())),
            None => Ok(()),
        }
    }

    /// Waits for the store, but not for ever.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, AlertError> {
        match tokio::time::timeout(STORE_WAIT, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(AlertError::Late(STORE_WAIT)),
        }
    }
}

fn rule_id(text: &str) -> Result<Id, AlertError> {
    if text.is_empty() {
        return Err(AlertError::invalid("id", MISSING_ID));
    }
    Id::parse(text).ok_or_else(|| AlertError::NotFound(text.chars().take(32).collect()))
}

/// Checks a user's id: it names the user's channel.
fn check_user(user: &str) -> Result<String, AlertError> {
    if user.is_empty() {
        return Err(AlertError::invalid(
            "user",
            "empty, expected the id of a user",
        ));
    }
    match ChannelName::user(user) {
        Ok(_) => Ok(user.to_owned()),
        Err(error) => {
            let problem = format!("{user:?} is not the id of a user: {error}");
            Err(AlertError::invalid("user", problem))
        }
    }
}
