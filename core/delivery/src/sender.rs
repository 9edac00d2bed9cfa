//! Senders: all configured channels behind one function.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use rustls::ClientConfig;
use tidewire_stream::SharedClock;

use crate::{
    Channel, DeliveryConfig, DeliveryError, EndpointId, Job, JobOrder, Outcome, QueueLimits,
    Target,
    email::EmailSender,
    guard::Networks,
    http_client::{HttpClient, Lookup, SystemLookup},
    tls::tls_config,
    web_push::WebPushSender,
    webhook::WebhookSender,
};

/// Makes attempts to send jobs. Tests of the dispatcher use their own.
pub trait Sender: Send + Sync + 'static {
    /// Makes one attempt.
    fn send<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Outcome>;

    /// The bounds of an endpoint's queue.
    fn limits(&self, endpoint: &EndpointId) -> QueueLimits;
}

/// The senders of all configured channels.
#[derive(Debug)]
pub struct Senders {
    config: DeliveryConfig,
    webhooks: HashMap<Arc<str>, WebhookSender>,
    push: Option<WebPushSender>,
    email: Option<EmailSender>,
}

impl Senders {
    /// Senders that resolve names with the system.
    ///
    /// # Errors
    /// Names the key of the configuration that cannot be used.
    pub fn new(config: &DeliveryConfig, clock: &SharedClock) -> Result<Self, DeliveryError> {
        let lookup: Arc<dyn Lookup> = Arc::new(SystemLookup);
        Self::with_lookup(config, clock, &lookup)
    }

    /// Senders that resolve names with `lookup`.
    ///
    /// # Errors
    /// Names the key of the configuration that cannot be used.
    pub fn with_lookup(
        config: &DeliveryConfig,
        clock: &SharedClock,
        lookup: &Arc<dyn Lookup>,
    ) -> Result<Self, DeliveryError> {
        config.check()?;
        let tls = tls_config(config.ca_file.as_deref())?;
        let clients = Clients {
            public: client(Networks::Public, &tls, lookup, config.timeout)?,
            any: client(Networks::Any, &tls, lookup, config.timeout)?,
        };
        let webhooks = config.webhook.iter().map(|webhook| {
            let client = clients.of(webhook.networks());
            let sender = WebhookSender::new(webhook, client, clock.clone())?;
            Ok((webhook.name.as_str().into(), sender))
        });
        let push = config.push.as_ref().map(|push| {
            let client = clients.of(push.networks());
            WebPushSender::new(push, client, clock.clone())
        });
        let email = config.email.as_ref();
        let email = email.map(|email| EmailSender::new(email, config.timeout));
        Ok(Self {
            webhooks: webhooks.collect::<Result<_, DeliveryError>>()?,
            push: push.transpose()?,
            email: email.transpose()?,
            config: config.clone(),
        })
    }

    /// The webhooks.
    pub fn webhooks(&self) -> impl Iterator<Item = &WebhookSender> {
        self.webhooks.values()
    }

    /// Web Push, if it is configured.
    #[must_use]
    pub fn push(&self) -> Option<&WebPushSender> {
        self.push.as_ref()
    }

    /// E-mail, if it is configured.
    #[must_use]
    pub fn email(&self) -> Option<&EmailSender> {
        self.email.as_ref()
    }

    /// The concurrency and the rate of an endpoint.
    fn pace(&self, endpoint: &EndpointId) -> (usize, u32) {
        match endpoint.channel {
            Channel::Webhook => self.webhooks.get(&endpoint.name).map_or((1, 0), |webhook| {
                (webhook.config().concurrency, webhook.config().rate)
            }),
            Channel::Push => (1, 0),
            Channel::Email => self
                .config
                .email
                .as_ref()
                .map_or((1, 0), |email| (email.concurrency, email.rate)),
        }
    }
}

impl Sender for Senders {
    fn send<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let message = &job.message;
            match &job.target {
                Target::Webhook(name) => match self.webhooks.get(name) {
                    Some(webhook) => webhook.send(message).await,
                    None => Outcome::Gone {
                        reason: "the webhook is not in the configuration any more".to_owned(),
                    },
                },
                Target::Push {
                    registration,
                    subscription,
                } => match &self.push {
                    Some(push) => push.send(registration, subscription, message).await,
                    None => not_configured(Channel::Push),
                },
                Target::Email(to) => match &self.email {
                    Some(email) => email.send(to, message).await,
                    None => not_configured(Channel::Email),
                },
            }
        })
    }

    fn limits(&self, endpoint: &EndpointId) -> QueueLimits {
        let config = &self.config;
        let (concurrency, rate) = self.pace(endpoint);
        QueueLimits {
            jobs: config.queue,
            order: match endpoint.channel {
                Channel::Webhook | Channel::Push => JobOrder::Offered,
                // All users' mails go to one server.
                Channel::Email => JobOrder::ByUser,
            },
            concurrency,
            interval: match rate {
                0 => Duration::ZERO,
                rate => Duration::from_secs(1) / rate,
            },
            first_pause: config.first_pause,
            longest_pause: config.longest_pause,
            attempts: config.attempts,
            max_age: config.max_age,
        }
    }
}

/// The clients of both kinds of networks.
struct Clients {
    public: HttpClient,
    any: HttpClient,
}

impl Clients {
    fn of(&self, networks: Networks) -> HttpClient {
        match networks {
            Networks::Public => self.public.clone(),
            Networks::Any => self.any.clone(),
        }
    }
}

fn client(
    networks: Networks,
    tls: &ClientConfig,
    lookup: &Arc<dyn Lookup>,
    timeout: Duration,
) -> Result<HttpClient, DeliveryError> {
    HttpClient::new(networks, tls, lookup.clone(), timeout)
        .map_err(|problem| DeliveryError::invalid("delivery", problem))
}

/// A channel may be switched off and on again: its jobs wait until they are too old.
fn not_configured(channel: Channel) -> Outcome {
    Outcome::Misconfigured {
        reason: format!("delivery.{} is not configured any more", channel.name()),
    }
}
