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
    answers::check_role,
    authority::{Authority, Service},
    error::RedisError,
    resp::{self, Reply},
    sentinels::Master,
    slots::{ServerAddress, Slot},
    tls::RedisTls,
};

/// Room for replies that is reserved at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// A socket, encrypted or not.
trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for S {}

/// A connection that is signed in.
pub struct RedisConnection {
    stream: Box<dyn Socket>,
    buffer: BytesMut,
    timeout: Duration,
    /// Says whether the server is the master.
    authority: Authority,
}

impl RedisConnection {
    /// Connects to the server that has this key, and signs in: the only one, the master that the
    /// sentinels name, or the master of the key's slot in a cluster.
    ///
    /// # Errors
    /// There is no such server, it does not answer, or it refuses the user.
    pub async fn open(options: &RedisOptions, key: &[u8]) -> Result<Self, RedisError> {
        if options.cluster.is_empty() {
            return Self::open_master(options, None).await;
        }
        let slot = Slot::of(key);
        let master = options.cluster.master(options, slot).await?;
        Self::open_in_cluster(options, &master, Service::Slot(slot)).await
    }

    /// Connects to a master of a cluster; without one, to the only server, or to the master that the
    /// sentinels name.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub async fn open_master(
        options: &RedisOptions,
        master: Option<&ServerAddress>,
    ) -> Result<Self, RedisError> {
        if let Some(master) = master {
            return Self::open_in_cluster(options, master, Service::Master).await;
        }
        let Some(master) = options.sentinels.current(options).await? else {
            return Self::open_to(options, &options.address, None).await;
        };
        let authority = Authority::Sentinels(options.sentinels.clone(), master.version);
        let opened = async {
            let mut connection = Self::open_to(options, &options.address, Some(&master)).await?;
            check_role(connection.call(&["ROLE"]).await)?;
            Ok::<_, RedisError>(connection)
        };
        // A server that does not answer may be replaced meanwhile.
        let mut connection = tokio::select! {
            biased;
            error = authority.replaced() => return Err(error),
            opened = opened => opened?,
        };
        connection.authority = authority;
        Ok(connection)
    }

    /// Connects to any server of a cluster, master or not.
    ///
    /// # Errors
    /// It does not answer, or it refuses the user.
    pub async fn open_server(
        options: &RedisOptions,
        server: &ServerAddress,
    ) -> Result<Self, RedisError> {
        Self::open_in_cluster(options, server, Service::Any).await
    }

    async fn open_in_cluster(
        options: &RedisOptions,
        server: &ServerAddress,
        service: Service,
    ) -> Result<Self, RedisError> {
        let address = RedisAddress {
            host: server.host.to_string(),
            port: server.port,
            ..options.address.clone()
        };
        let authority = Authority::Cluster(options.cluster.clone(), server.clone(), service);
        // One that hangs may be replaced meanwhile.
        let opened = tokio::select! {
            error = authority.replaced() => Err(error),
            opened = Self::open_to(options, &address, None) => opened,
        };
        let mut connection = opened.inspect_err(|_| authority.note_loss())?;
        authority.check()?;
        connection.authority = authority;
        Ok(connection)
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
            authority: Authority::Address,
        };
        match connection.sign_in(address).await {
            Ok(()) => Ok(connection),
            // Of several servers, such as those of a failover, one may have another user.
            Err(RedisError::Refused(text)) => {
                Err(RedisError::Refused(format!("{text}, from {host}:{port}")))
            }
            Err(error) if address.is_tls => Err(options.tls.explain_first(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether the server is still the master, as far as the sentinels or the cluster say.
    ///
    /// # Errors
    /// Another one is: the connection must not be used any more.
    pub fn check_master(&self) -> Result<(), RedisError> {
        self.authority.check()
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
        let authority = self.authority.clone();
        let exchange = async {
            self.write(commands).await?;
            let mut replies = Vec::with_capacity(count);
            while replies.len() < count {
                match self.arrived()? {
                    Some(reply) => replies.push(reply),
                    None => self.fill().await?,
                }
            }
            Ok(replies)
        };
        // A master that was replaced since it was asked may answer, and what it wrote will be lost.
        let exchanged = tokio::select! {
            biased;
            error = authority.replaced() => return Err(error),
            exchanged = timeout_at(deadline, exchange) => exchanged,
        };
        let replies = match exchanged {
            Ok(replies) => replies,
            Err(_) => Err(timed_out(self.timeout)),
        };
        replies.inspect_err(|_| authority.note_loss())
    }

    /// Waits until an idle connection must not be used any more, and returns the reason.
    pub async fn ended(&mut self) -> RedisError {
        match self.fill().await {
            Ok(()) => RedisError::Protocol("an answer came to no command".to_owned()),
            Err(error) => error,
        }
    }

    /// Asks the sentinels or the cluster whether the server is still the master, if it has not answered
    /// for a while: they may have replaced one that hung.
    ///
    /// # Errors
    /// Another server has become the master.
    pub async fn confirm_master(
        &self,
        options: &RedisOptions,
        asked: Instant,
    ) -> Result<(), RedisError> {
        self.authority.confirm(options, asked).await
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
        let reply = resp::decode(&mut self.buffer)?;
        if let Some(Reply::Error(text)) = &reply {
            self.authority.note_error(text);
        }
        Ok(reply)
    }

    /// Waits for more bytes. May be cancelled without losing any.
    ///
    /// # Errors
    /// The connection broke, the server ended it, or another one has become the master.
    pub async fn fill(&mut self) -> Result<(), RedisError> {
        self.buffer.reserve(READ_BYTES);
        let read = tokio::select! {
            biased;
            error = self.authority.replaced() => return Err(error),
            read = self.stream.read_buf(&mut self.buffer) => read,
        };
        let filled = match read {
            Ok(0) => Err(RedisError::Connection("the server ended it".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        filled.inspect_err(|_| self.authority.note_loss())
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

fn timed_out(after: Duration) -> RedisError {
    RedisError::TimedOut(after.as_millis())
}
