//! Request queue: requests about transactions that wait for a free node, in fair order.
//!
//! Each connection has a line of its own. The clients take turns, and so do the connections of a
//! client. So a connection that asks for very many transactions waits behind itself, and another
//! one with a single request waits for one batch at most. A transaction that several connections
//! ask for stands in the line of each, and is sent with the first.
//!
//! # Example
//! One connection has 500 transactions in its line, and 4 batches of 10 in flight, which is its
//! maximum. Another connection's request is sent at once: 4 further batches of its client may be
//! in flight, and 28 of other clients.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::B256;
use tidewire_stream::{ClientKey, session::ConnectionId};

use crate::transaction::{NodeRequest, RequestOwner};

/// Batches in flight at most, of all clients together.
const MAX_IN_FLIGHT: usize = 32;

/// Batches in flight of one client at most.
const MAX_IN_FLIGHT_OF_CLIENT: usize = 8;

/// Batches in flight of one connection at most.
const MAX_IN_FLIGHT_OF_CONNECTION: usize = 4;

/// Transactions in one batch. The next ones of a line wait for the slowest of them.
const BATCH: usize = 10;

/// Transactions in the line of one connection at most.
const MAX_LINE: usize = 1_000;

/// Transactions in all lines of a client at most.
const MAX_LINES_OF_CLIENT: usize = 5_000;

/// Transactions in the lines of all back ends at most.
const MAX_LINES_OF_BACK_ENDS: usize = 20_000;

/// Requests of one line that are sent together.
#[derive(Debug, PartialEq)]
pub(super) struct RequestBatch {
    pub(super) owner: RequestOwner,
    pub(super) requests: Vec<NodeRequest>,
}

/// The requests that wait, and how many batches are in flight.
#[derive(Debug, Default)]
pub(super) struct RequestQueue {
    by_transaction: HashMap<B256, QueuedRequests>,
    clients: HashMap<Option<ClientKey>, ClientLines>,
    /// Clients that may send, each once.
    turns: VecDeque<Option<ClientKey>>,
    in_flight: usize,
}

/// The requests about one transaction.
#[derive(Debug, Default)]
struct QueuedRequests {
    requests: Vec<NodeRequest>,
    /// The owners of the lines in which the transaction stands.
    owners: Vec<RequestOwner>,
}

/// The lines of one client's connections.
#[derive(Debug, Default)]
struct ClientLines {
    lines: HashMap<Option<ConnectionId>, Line>,
    /// Connections that may send, each once.
    turns: VecDeque<Option<ConnectionId>>,
    /// Transactions in all lines.
    transactions: usize,
    in_flight: usize,
    has_turn: bool,
}

/// The line of one connection.
#[derive(Debug, Default)]
struct Line {
    /// Transactions, some of which were sent with another line.
    transactions: VecDeque<B256>,
    in_flight: usize,
    has_turn: bool,
}

impl RequestQueue {
    /// Whether the line of an owner takes no further transaction.
    pub(super) fn is_full(&self, owner: &RequestOwner) -> bool {
        let Some(client) = self.clients.get(&owner.client) else {
            return false;
        };
        let line = client.lines.get(&owner.connection);
        let line = line.map_or(0, |line| line.transactions.len());
        match owner.client {
            Some(_) => line >= MAX_LINE || client.transactions >= MAX_LINES_OF_CLIENT,
            None => client.transactions >= MAX_LINES_OF_BACK_ENDS,
        }
    }

    /// Appends a request to the line of an owner.
    pub(super) fn push(&mut self, owner: &RequestOwner, request: NodeRequest) {
        let hash = request.hash();
        let queued = self.by_transaction.entry(hash).or_default();
        queued.requests.push(request);
        self.stand(owner, hash);
    }

    /// Places a transaction in the line of an owner too, if a request about it waits.
    pub(super) fn join(&mut self, owner: &RequestOwner, hash: B256) {
        if self.by_transaction.contains_key(&hash) {
            self.stand(owner, hash);
        }
    }

    fn stand(&mut self, owner: &RequestOwner, hash: B256) {
        let queued = self.by_transaction.entry(hash).or_default();
        if queued.owners.contains(owner) {
            return;
        }
        queued.owners.push(owner.clone());
        let client = self.clients.entry(owner.client.clone()).or_default();
        let line = client.lines.entry(owner.connection).or_default();
        line.transactions.push_back(hash);
        client.transactions += 1;
        self.give_turns(owner);
    }

    /// Lets a line and its client send, if they have transactions and may have a further batch in
    /// flight. Forgets them if nothing of them is left.
    fn give_turns(&mut self, owner: &RequestOwner) {
        let Some(client) = self.clients.get_mut(&owner.client) else {
            return;
        };
        let (most, most_of_line) = match owner.client {
            Some(_) => (MAX_IN_FLIGHT_OF_CLIENT, MAX_IN_FLIGHT_OF_CONNECTION),
            None => (MAX_IN_FLIGHT, MAX_IN_FLIGHT),
        };
        if let Some(line) = client.lines.get_mut(&owner.connection) {
            let is_empty = line.transactions.is_empty();
            if is_empty && line.in_flight == 0 && !line.has_turn {
                client.lines.remove(&owner.connection);
            } else if !is_empty && !line.has_turn && line.in_flight < most_of_line {
                line.has_turn = true;
                client.turns.push_back(owner.connection);
            }
        }
        if client.lines.is_empty() && !client.has_turn {
            self.clients.remove(&owner.client);
        } else if !client.turns.is_empty() && !client.has_turn && client.in_flight < most {
            client.has_turn = true;
            self.turns.push_back(owner.client.clone());
        }
    }

    /// The next batch to send, if there is one and it may be in flight. Report its end to
    /// [`finish`](Self::finish).
    pub(super) fn next_batch(&mut self) -> Option<RequestBatch> {
        while self.in_flight < MAX_IN_FLIGHT {
            let client = self.turns.pop_front()?;
            let (owner, requests) = self.take(client);
            let is_empty = requests.is_empty();
            self.in_flight += usize::from(!is_empty);
            self.give_turns(&owner);
            if !is_empty {
                return Some(RequestBatch { owner, requests });
            }
        }
        None
    }

    /// Takes the requests about the next transactions of a client's next line.
    fn take(&mut self, client: Option<ClientKey>) -> (RequestOwner, Vec<NodeRequest>) {
        let mut requests = Vec::new();
        let mut owner = RequestOwner {
            client,
            connection: None,
        };
        let Some(client) = self.clients.get_mut(&owner.client) else {
            return (owner, requests);
        };
        client.has_turn = false;
        owner.connection = client.turns.pop_front().unwrap_or_default();
        let Some(line) = client.lines.get_mut(&owner.connection) else {
            return (owner, requests);
        };
        line.has_turn = false;
        let mut count = 0;
        while count < BATCH
            && let Some(hash) = line.transactions.pop_front()
        {
            client.transactions -= 1;
            if let Some(queued) = self.by_transaction.remove(&hash) {
                requests.extend(queued.requests);
                count += 1;
            }
        }
        line.in_flight += usize::from(count > 0);
        client.in_flight += usize::from(count > 0);
        (owner, requests)
    }

    /// Notes that a batch of this line is no longer in flight.
    pub(super) fn finish(&mut self, owner: &RequestOwner) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(&owner.client) {
            client.in_flight = client.in_flight.saturating_sub(1);
            if let Some(line) = client.lines.get_mut(&owner.connection) {
                line.in_flight = line.in_flight.saturating_sub(1);
            }
        }
        self.give_turns(owner);
    }
}

#[cfg(test)]
mod tests;
