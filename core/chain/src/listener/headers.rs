//! Fetches the headers between a head and the canonical chain.

use alloy::primitives::B256;

use super::{
    Follower,
    wire::{HeaderJson, header_by_hash, header_by_number},
};
use crate::{BlockRef, endpoint::Failure};

/// A gap of more headers than this is read by height, many at once; the hashes tell
/// whether they link.
const BY_HASH: u64 = 3;

impl Follower {
    /// Fetches the header with this hash, and those below it down to the tip if there
    /// are many. The endpoint that told of the head is asked first.
    pub(super) async fn fetch(
        &mut self,
        teller: usize,
        hash: B256,
        number: u64,
    ) -> Result<(), Failure> {
        let tip = self.tree.tip().map_or(number, |tip| tip.number);
        if number > tip + BY_HASH && self.fetch_range(teller, tip + 1, hash, number).await {
            return Ok(());
        }
        let mut last = Failure::Missing(format!("header {hash}"));
        let first = self.pool.endpoints().get(teller).cloned();
        let others = self.pool.by_health(number).into_iter();
        let others = others.filter(|other| other.rest().is_zero());
        for endpoint in first.into_iter().chain(others) {
            match endpoint
                .ask::<Option<HeaderJson>>(header_by_hash(hash))
                .await
            {
                Ok(Some(header)) => {
                    let header = header.block();
                    if header.hash == hash && header.number == number {
                        self.tree.insert(header);
                        return Ok(());
                    }
                    endpoint.caught_lying("it gives another header than was asked for");
                }
                Ok(None) => {}
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Reads headers by their heights. True if the one that is needed was among them.
    async fn fetch_range(&mut self, teller: usize, from: u64, hash: B256, to: u64) -> bool {
        let Some(endpoint) = self.pool.endpoints().get(teller).cloned() else {
            return false;
        };
        let calls: Vec<_> = (from..=to).map(header_by_number).collect();
        let mut has_needed = false;
        for answer in endpoint.ask_all(&calls).await.into_iter().flatten() {
            if let Ok(Some(header)) = endpoint.read::<Option<HeaderJson>>(&answer) {
                let header = header.block();
                has_needed |= header.hash == hash;
                self.tree.insert(header);
            }
        }
        has_needed
    }

    /// The header of this height, as the endpoint that told of a head has it.
    pub(super) async fn header_at(&self, teller: usize, number: u64) -> Result<BlockRef, Failure> {
        let missing = || Failure::Missing(format!("header {number}"));
        let endpoint = self.pool.endpoints().get(teller).ok_or_else(missing)?;
        let header: Option<HeaderJson> = endpoint.ask(header_by_number(number)).await?;
        let header = header.ok_or_else(missing)?.block();
        if header.number == number {
            return Ok(header);
        }
        endpoint.caught_lying("it gives another header than was asked for");
        Err(missing())
    }
}
