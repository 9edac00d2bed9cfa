//! Ports of processes that cannot find one by themselves, or that come back to theirs.
//!
//! A port that was bound and left again is anybody's: another test takes it and both talk to one server, or
//! the kernel gives it to a connection, and a server that comes back does not start. These are below those
//! that kernels give out, and each is held by a UDP socket, which other tests respect and the
//! process does not notice.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Linux gives out ports from 32,768 on, and macOS from 49,152 on.
const PORTS: Range<u16> = 12_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is nobody else's until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _held: UdpSocket,
}

impl Port {
    /// A port that nobody listens to.
    ///
    /// # Panics
    /// All are taken.
    #[must_use]
    pub fn free() -> Self {
        let count = PORTS.end - PORTS.start;
        // Other processes begin elsewhere.
        let first = process::id().wrapping_mul(7_919) % u32::from(count);
        for _ in 0..count {
            let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let offset = (first + next) % u32::from(count);
            let number = PORTS.start + u16::try_from(offset).expect("it is below the count");
            let Ok(held) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
                return Self {
                    number,
                    _held: held,
                };
            }
        }
        panic!("no port of {PORTS:?} is free");
    }

    /// The number of the port.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
