//! Slots: the 16,384 parts of the keys of a Redis Cluster, and the server that serves each.
//!
//! All keys with the same hash tag, the text in the first braces, are in one slot.
//!
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use std::{fmt, sync::Arc};

use crate::{error::RedisError, resp::Reply};

/// Slots of a cluster.
pub const SLOTS: usize = 16_384;

/// A slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key, or of a shard channel.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hashed_part(key)) % SLOTS as u16)
    }

    /// The slot with this number, if there is one.
    fn numbered(number: i64) -> Option<Self> {
        let number = u16::try_from(number).ok()?;
        (usize::from(number) < SLOTS).then_some(Self(number))
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The part of a key that decides on its slot: its hash tag, or all of it.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        // An empty tag is none.
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc >> 15 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

/// The address of a server of a cluster. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// Its host, as the cluster announces it.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
}

impl ServerAddress {
    /// An address of this host and port.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The master of each slot, as one server of the cluster sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMap {
    /// The masters, each once.
    masters: Vec<ServerAddress>,
    /// Index of the master of each slot. Empty before the cluster was asked.
    owners: Vec<Option<u16>>,
    replicas: Vec<ServerAddress>,
}

impl SlotMap {
    /// Reads the answer of the server `asked` to `CLUSTER SLOTS`.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn read(answer: Reply, asked: &ServerAddress) -> Result<Self, RedisError> {
        let malformed = || RedisError::Protocol("CLUSTER SLOTS has a malformed range".to_owned());
        let mut map = Self {
            owners: vec![None; SLOTS],
            ..Self::default()
        };
        for range in answer.array()? {
            let mut parts = range.array()?.into_iter();
            let mut bound = || match parts.next() {
                Some(Reply::Integer(number)) => Slot::numbered(number),
                _ => None,
            };
            let (first, last) = bound().zip(bound()).ok_or_else(malformed)?;
            let slots = map.owners.get(first.index()..=last.index());
            if slots.is_none() {
                return Err(malformed());
            }
            let mut servers = parts.map(|server| address(server, asked));
            let Some(master) = servers.next().transpose()?.flatten() else {
                // A master whose address is not known yet.
                continue;
            };
            let owner = map.add_master(&master)?;
            map.owners[first.index()..=last.index()].fill(Some(owner));
            for replica in servers {
                map.replicas.extend(replica?);
            }
        }
        Ok(map)
    }

    /// The number of a master, which is added if it is new.
    fn add_master(&mut self, master: &ServerAddress) -> Result<u16, RedisError> {
        let known = self.masters.iter().position(|known| known == master);
        let index = known.unwrap_or_else(|| {
            self.masters.push(master.clone());
            self.masters.len() - 1
        });
        u16::try_from(index)
            .map_err(|_| RedisError::Protocol("CLUSTER SLOTS has too many masters".to_owned()))
    }

    /// The master that serves a slot. None if there is none.
    #[must_use]
    pub fn master(&self, slot: Slot) -> Option<&ServerAddress> {
        let owner = (*self.owners.get(slot.index())?)?;
        self.masters.get(usize::from(owner))
    }

    /// The masters that serve a slot.
    #[must_use]
    pub fn masters(&self) -> &[ServerAddress] {
        &self.masters
    }

    /// All servers that are known, masters first.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &ServerAddress> {
        self.masters.iter().chain(&self.replicas)
    }

    /// Whether this map gives a server slots that another one has in the map known so far.
    pub(crate) fn is_claim_of(&self, server: &ServerAddress, known: &Self) -> bool {
        let of = |map: &Self, owner: Option<u16>| {
            let owner = map.masters.get(usize::from(owner?));
            owner.map(|owner| owner == server)
        };
        let mut slots = self.owners.iter().zip(&known.owners);
        slots.any(|(new, old)| of(self, *new) == Some(true) && of(known, *old) == Some(false))
    }

    /// Whether each slot has the same master in another map.
    pub(crate) fn has_owners_of(&self, other: &Self) -> bool {
        (&self.masters, &self.owners) == (&other.masters, &other.owners)
    }

    /// How many slots are served.
    #[must_use]
    pub fn served(&self) -> usize {
        self.owners.iter().flatten().count()
    }

    /// The same map after a slot has moved to another master. Masters without a slot are gone.
    #[must_use]
    pub(crate) fn moved(&self, slot: Slot, to: &ServerAddress) -> Self {
        let mut map = Self {
            owners: vec![None; SLOTS],
            replicas: self.replicas.clone(),
            ..Self::default()
        };
        map.replicas.retain(|replica| replica != to);
        let mut numbers = vec![None; self.masters.len()];
        for (index, owner) in self.owners.iter().enumerate() {
            if index == slot.index() {
                continue;
            }
            let Some(owner) = owner.map(usize::from) else {
                continue;
            };
            if numbers[owner].is_none() {
                numbers[owner] = map.add_master(&self.masters[owner]).ok();
            }
            map.owners[index] = numbers[owner];
        }
        map.owners[slot.index()] = map.add_master(to).ok();
        // A demoted master may answer questions still.
        for master in &self.masters {
            if !map.masters.contains(master) && !map.replicas.contains(master) {
                map.replicas.push(master.clone());
            }
        }
        map
    }
}

/// The address of a server in `CLUSTER SLOTS`. None if the cluster does not know it yet.
fn address(server: Reply, asked: &ServerAddress) -> Result<Option<ServerAddress>, RedisError> {
    let malformed = || RedisError::Protocol("CLUSTER SLOTS has a malformed server".to_owned());
    let mut parts = server.array()?.into_iter();
    let (Some(host), Some(Reply::Integer(port))) = (parts.next(), parts.next()) else {
        return Err(malformed());
    };
    let port = u16::try_from(port).map_err(|_| malformed())?;
    let host = match host {
        // The host by which it was asked.
        Reply::Nil => None,
        host => Some(host.string()?).filter(|host| !host.is_empty()),
    };
    if port == 0 {
        return Ok(None);
    }
    Ok(match host.as_deref() {
        None => Some(ServerAddress::new(&asked.host, port)),
        // A server without the host name that it should have. Its metadata may have an address.
        Some("?") => ip(parts.nth(1)).map(|ip| ServerAddress::new(&ip, port)),
        Some(host) => Some(ServerAddress::new(host, port)),
    })
}

/// The field `ip` of the metadata of a server.
fn ip(metadata: Option<Reply>) -> Option<String> {
    let mut fields = metadata?.array().ok()?.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name.string().ok()? == "ip" {
            return value.string().ok().filter(|ip| !ip.is_empty());
        }
    }
    None
}

/// The answer of a server that does not serve a slot, or is about to hand it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirection {
    /// Another server serves the slot.
    Moved(Slot, ServerAddress),
    /// The slot is on its way to another server, which has these keys already.
    Ask(Slot, ServerAddress),
}

impl Redirection {
    /// Reads an error of the server `asked`. None if it is another one, or names no server.
    #[must_use]
    pub fn read(error: &str, asked: &ServerAddress) -> Option<Self> {
        let mut words = error.split(' ');
        let (kind, slot, server) = (words.next()?, words.next()?, words.next()?);
        let slot = Slot::numbered(slot.parse().ok()?)?;
        let (host, port) = server.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let server = match host {
            "" => ServerAddress::new(&asked.host, port),
            "?" => return None,
            host => ServerAddress::new(host, port),
        };
        match kind {
            "MOVED" => Some(Self::Moved(slot, server)),
            "ASK" => Some(Self::Ask(slot, server)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Reply {
        Reply::Text(text.to_owned().into())
    }

    fn server(host: Reply, port: i64) -> Reply {
        Reply::Array(vec![
            host,
            Reply::Integer(port),
            text("id"),
            Reply::Array(vec![text("ip"), text("10.0.0.9")]),
        ])
    }

    fn range(first: i64, last: i64, servers: Vec<Reply>) -> Reply {
        let bounds = vec![Reply::Integer(first), Reply::Integer(last)];
        Reply::Array([bounds, servers].concat())
    }

    fn answering() -> ServerAddress {
        ServerAddress::new("answering", 1)
    }

    #[test]
    fn a_slot_is_that_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [
            ("foo", 12_182),
            ("bar", 5_061),
            ("{user1000}.following", 3_443),
            ("{user1000}.followers", 3_443),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("foo{bar}{zap}", 5_061),
            ("", 0),
        ] {
            assert_eq!(Slot::of(key.as_bytes()), Slot(slot), "{key}");
        }
        assert_eq!(Slot::of(b"a{b"), Slot(crc16(b"a{b") % 16_384));
    }

    #[test]
    fn a_map_has_the_master_of_each_slot() {
        let answer = Reply::Array(vec![
            range(0, 99, vec![server(text("a"), 1), server(text("r"), 2)]),
            range(100, 199, vec![server(Reply::Nil, 3)]),
            range(200, 299, vec![server(text("?"), 4)]),
            range(16_383, 16_383, vec![server(text("a"), 1)]),
        ]);
        let map = SlotMap::read(answer, &answering()).unwrap();
        let master = |slot| map.master(Slot(slot)).map(ToString::to_string);
        assert_eq!(master(0).as_deref(), Some("a:1"));
        assert_eq!(master(150).as_deref(), Some("answering:3"));
        assert_eq!(master(200).as_deref(), Some("10.0.0.9:4"));
        assert_eq!(master(300), None);
        assert_eq!(master(16_383).as_deref(), Some("a:1"));
        assert_eq!((map.served(), map.masters().len()), (301, 3));
        assert_eq!(map.servers().count(), 4);
        // The only slots of two masters move to a replica.
        let mut moved = map.clone();
        for slot in 100..300 {
            moved = moved.moved(Slot(slot), &ServerAddress::new("r", 2));
        }
        assert_eq!((moved.served(), moved.masters().len()), (301, 2));
        assert_eq!(moved.master(Slot(150)).unwrap().port, 2);
        assert_eq!(moved.servers().count(), 4);
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused() {
        let one = || vec![server(text("a"), 1)];
        for wrong in [
            text("OK"),
            Reply::Array(vec![range(0, 16_384, one())]),
            Reply::Array(vec![range(-1, 1, one())]),
            Reply::Array(vec![range(9, 1, one())]),
            Reply::Array(vec![range(0, 1, vec![server(text("a"), 70_000)])]),
            Reply::Array(vec![range(0, 1, vec![text("a")])]),
            Reply::Array(vec![Reply::Array(vec![Reply::Integer(1)])]),
        ] {
            assert!(
                SlotMap::read(wrong.clone(), &answering()).is_err(),
                "{wrong:?}"
            );
        }
        let refused = Reply::Error("ERR This instance has cluster support disabled".to_owned());
        let error = SlotMap::read(refused, &answering()).unwrap_err();
        assert!(matches!(error, RedisError::Refused(_)));
    }

    #[test]
    fn a_redirection_names_the_slot_and_the_server() {
        let read = |text: &str| match Redirection::read(text, &answering())? {
            Redirection::Moved(slot, server) => Some(format!("moved {slot} {server}")),
            Redirection::Ask(slot, server) => Some(format!("ask {slot} {server}")),
        };
        for (error, expected) in [
            (
                "MOVED 3999 127.0.0.1:6381",
                Some("moved 3999 127.0.0.1:6381"),
            ),
            ("ASK 3999 host:6381", Some("ask 3999 host:6381")),
            ("MOVED 3999 ::1:6381", Some("moved 3999 [::1]:6381")),
            ("MOVED 3999 :6381", Some("moved 3999 answering:6381")),
            ("MOVED 3999 ?:6381", None),
            ("MOVED 16384 a:1", None),
            ("MOVED -1 a:1", None),
            ("MOVED 1 a:0", None),
            ("MOVED 1", None),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                None,
            ),
        ] {
            assert_eq!(read(error).as_deref(), expected, "{error}");
        }
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            Just(Reply::Nil),
            (-2_i64..70_000).prop_map(Reply::Integer),
            "[a-z?.:]{0,4}".prop_map(|one| text(&one)),
            any::<Vec<u8>>().prop_map(|bytes| Reply::Text(bytes.into())),
            ".{0,4}".prop_map(Reply::Error),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Reply::Array)
        })
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(answer in any_reply()) {
            if let Ok(map) = SlotMap::read(answer, &answering()) {
                prop_assert!(map.served() <= SLOTS);
            }
        }

        #[test]
        fn any_text_is_a_redirection_or_none(
            text in "(MOVED|ASK|)[ ]?-?[0-9]{0,6}[ ]?.{0,8}:?[0-9]{0,6}"
        ) {
            if let Some(Redirection::Moved(slot, _) | Redirection::Ask(slot, _)) =
                Redirection::read(&text, &answering())
            {
                prop_assert!(slot.index() < SLOTS);
            }
        }

        /// Moved slots are where they were moved to, and all others where they were.
        #[test]
        fn slots_move_one_by_one(moves in proptest::collection::vec((0..16_384_u16, 1..5_u16), 0..24)) {
            let answer = Reply::Array(vec![range(0, 16_383, vec![server(text("a"), 1)])]);
            let mut map = SlotMap::read(answer, &answering()).unwrap();
            let mut expected = vec![1; SLOTS];
            for (slot, port) in moves {
                map = map.moved(Slot(slot), &ServerAddress::new("a", port));
                expected[usize::from(slot)] = port;
            }
            let owner = |slot: usize| map.master(Slot(slot as u16)).unwrap().port;
            prop_assert!((0..SLOTS).all(|slot| owner(slot) == expected[slot]));
            let mut masters: Vec<_> = map.masters().iter().map(|one| one.port).collect();
            masters.sort_unstable();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(masters, expected);
        }
    }
}
