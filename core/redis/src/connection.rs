//! Connection: a TCP connection to Redis, signed in, for pipelines of commands.
//!
//! It is our own, since order and repetition matter here: a pipeline is written once and in order,
//! and whether a part of it is repeated after a fault is decided by its sender, who knows what a
//! repetition does.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    address::{RedisAddress, RedisOptions},
    error::RedisError,
    resp::{self, Reply},
    sentinels::{Master, Sentinels, check_role},
    tls::RedisTls,
};

/// Room for replies that is reserved at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// Time without an answer after which sentinels may have replaced a master: shorter than any useful
/// `down-after-milliseconds`.
const HANG: Duration = Duration::from_millis(250);

/// A socket, encrypted or not.
trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for S {}

/// A connection that is signed in.
pub struct RedisConnection {
    stream: Box<dyn Socket>,
    buffer: BytesMut,
    timeout: Duration,
    /// The sentinels, and their version while the server is the master.
    followed: Option<(Sentinels, u64)>,
}

impl RedisConnection {
    /// Connects to the server, or to the master that the sentinels name, and signs in.
    pub async fn open(options: &RedisOptions) -> Result<Self, RedisError> {
        let Some(master) = options.sentinels.current(options).await? else {
            return Self::open_to(options, &options.address, None).await;
        };
        let opened = async {
            let mut connection = Self::open_to(options, &options.address, Some(&master)).await?;
            check_role(connection.call(&["ROLE"]).await)?;
            connection.followed = Some((options.sentinels.clone(), master.version));
            Ok(connection)
        };
        // A server that does not answer may be replaced meanwhile.
        tokio::select! {
            biased;
            () = options.sentinels.replaced(master.version) => Err(replaced()),
            opened = opened => opened,
        }
    }

    /// Connects to the server of an address, or to this master with the sign-in of the address.
    pub async fn open_to(
        options: &RedisOptions,
        address: &RedisAddress,
        master: Option<&Master>,
    ) -> Result<Self, RedisError> {
        let (host, port) = match master {
            Some(master) => (&*master.host, master.port),
            None => (&*address.host, address.port),
        };
        let connect = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = in_time(options, connect).await?;
        let stream: Box<dyn Socket> = match address.is_tls {
            true => {
                let encrypted = in_time(options, options.tls.connect(host, stream));
                Box::new(encrypted.await.map_err(RedisTls::explain_handshake)?)
            }
            false => Box::new(stream),
        };
        let mut connection = Self {
            stream,
            buffer: BytesMut::with_capacity(READ_BYTES),
            timeout: options.timeout,
            followed: None,
        };
        match connection.sign_in(address).await {
            Ok(()) => Ok(connection),
            Err(error) if address.is_tls => Err(options.tls.explain_first(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether the server is still the one that the sentinels name.
    ///
    /// # Errors
    /// Another one is: the connection must not be used any more.
    pub fn check_master(&self) -> Result<(), RedisError> {
        match &self.followed {
            Some((sentinels, version)) if *version != sentinels.version() => Err(replaced()),
            _ => Ok(()),
        }
    }

    /// Waits until the server is not the master any more: for ever without sentinels.
    async fn replaced(followed: Option<&(Sentinels, u64)>) {
        match followed {
            Some((sentinels, version)) => sentinels.replaced(*version).await,
            None => std::future::pending().await,
        }
    }

    async fn sign_in(&mut self, address: &RedisAddress) -> Result<(), RedisError> {
        if let Some(password) = &address.password {
            match &address.user {
                Some(user) => self.call(&["AUTH", user, password]).await?,
                None => self.call(&["AUTH", password]).await?,
            };
        }
        if address.database != 0 {
            let database = address.database.to_string();
            self.call(&["SELECT", &database]).await?;
        }
        // The first fault of a server that wants a password, or loads its data.
        match self.call(&["PING"]).await {
            // A server that cannot save refuses pings as if they wrote.
            Err(error) if !error.refuses_writes() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends one command, and waits for its answer.
    ///
    /// # Errors
    /// The connection broke, or the server refused the command.
    pub async fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Reply, RedisError> {
        let mut bytes = Vec::new();
        resp::encode(&mut bytes, arguments);
        let replies = self.exchange(&bytes, 1).await?;
        match replies.into_iter().next() {
            Some(Reply::Error(text)) => Err(RedisError::Refused(text)),
            Some(reply) => Ok(reply),
            None => Err(RedisError::Protocol("no answer came".to_owned())),
        }
    }

    /// Sends a pipeline of encoded commands, and waits for their answers.
    ///
    /// # Errors
    /// The connection broke, another server has become the master, or not all answers came in time.
    /// Some commands may have run. The connection must not be used any more: answers may still come.
    pub async fn exchange(
        &mut self,
        commands: &[u8],
        count: usize,
    ) -> Result<Vec<Reply>, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let followed = self.followed.clone();
        let exchange = async {
            self.write(commands).await?;
            let mut replies = Vec::with_capacity(count);
            while replies.len() < count {
                match resp::decode(&mut self.buffer)? {
                    Some(reply) => replies.push(reply),
                    None => self.fill().await?,
                }
            }
            Ok(replies)
        };
        // A master that was replaced since it was asked may answer, and what it wrote will be lost.
        let exchanged = tokio::select! {
            biased;
            () = Self::replaced(followed.as_ref()) => return Err(replaced()),
            exchanged = timeout_at(deadline, exchange) => exchanged,
        };
        match exchanged {
            Ok(replies) => replies,
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    /// Waits until an idle connection must not be used any more, and returns the reason.
    pub async fn ended(&mut self) -> RedisError {
        match self.fill().await {
            Ok(()) => RedisError::Protocol("an answer came to no command".to_owned()),
            Err(error) => error,
        }
    }

    /// Asks the sentinels whether the server is still the master, if it has not answered for a while:
    /// they may have replaced one that hung.
    ///
    /// # Errors
    /// Another server has become the master.
    pub async fn confirm_master(
        &self,
        options: &RedisOptions,
        asked: Instant,
    ) -> Result<(), RedisError> {
        if self.followed.is_some() && asked.elapsed() >= HANG {
            // Without an answer, nothing is known against the server.
            let named = options.sentinels.find(options).await;
            if named.is_ok_and(|named| named.is_some_and(|master| master.is_replaced)) {
                return Err(replaced());
            }
        }
        self.check_master()
    }

    /// Sends encoded commands without waiting for answers.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, commands: &[u8]) -> Result<(), RedisError> {
        let time = self.timeout;
        match timeout(time, self.write(commands)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(timed_out(time)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        // TLS keeps what the socket has not taken.
        self.stream.flush().await
    }

    /// A reply that has arrived already.
    ///
    /// # Errors
    /// The bytes are not RESP.
    pub fn arrived(&mut self) -> Result<Option<Reply>, RedisError> {
        resp::decode(&mut self.buffer)
    }

    /// Waits for more bytes. May be cancelled without losing any.
    ///
    /// # Errors
    /// The connection broke, the server ended it, or another one has become the master.
    pub async fn fill(&mut self) -> Result<(), RedisError> {
        self.buffer.reserve(READ_BYTES);
        let read = tokio::select! {
            biased;
            () = Self::replaced(self.followed.as_ref()) => return Err(replaced()),
            read = self.stream.read_buf(&mut self.buffer) => read?,
        };
        match read {
            0 => Err(RedisError::Connection("the server ended it".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Waits for a step of opening a connection.
async fn in_time<T>(
    options: &RedisOptions,
    step: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match timeout(options.timeout, step).await {
        Ok(outcome) => outcome,
        Err(_) => Err(timed_out(options.timeout)),
    }
}

fn replaced() -> RedisError {
    RedisError::Connection("another server has become the master".to_owned())
}

fn timed_out(after: Duration) -> RedisError {
    RedisError::TimedOut(after.as_millis())
}
