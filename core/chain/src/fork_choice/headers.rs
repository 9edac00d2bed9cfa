//! Fetches the headers between a head and the canonical chain.

use alloy::primitives::B256;
use serde_json::value::RawValue;

use super::HeadTracker;
use crate::{
    BlockRef, Call,
    endpoint::{Endpoint, Failure},
    proof::{self, ProofCheck, ProofPolicy},
    rpc_types::{HeaderJson, header_by_hash, header_by_number},
};

/// A gap of more headers than this is read by height, many at once; the hashes tell
/// whether they link.
const BY_HASH: u64 = 3;

/// Asks for a header, and believes none that does not hash to its hash.
pub(super) async fn ask_header(
    endpoint: &Endpoint,
    call: Call,
    proofs: ProofPolicy,
) -> Result<Option<BlockRef>, Failure> {
    let raw: Option<Box<RawValue>> = endpoint.ask(call).await?;
    raw.map(|raw| read_header(endpoint, &raw, proofs))
        .transpose()
}

/// Reads a header, likewise.
pub(super) fn read_header(
    endpoint: &Endpoint,
    raw: &RawValue,
    proofs: ProofPolicy,
) -> Result<BlockRef, Failure> {
    let header = endpoint.read::<HeaderJson>(raw)?.block();
    if proofs.header == ProofCheck::Required
        && let Err(error) = proof::header(raw, header.hash)
    {
        let what = format!("block {}: {error}", header.number);
        endpoint.caught_lying(&what);
        return Err(Failure::Nonsense(what));
    }
    Ok(header)
}

impl HeadTracker {
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
            match ask_header(&endpoint, header_by_hash(hash), self.rules.proofs).await {
                Ok(Some(header)) => {
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
            // One that is not there is null.
            if let Ok(Some(raw)) = endpoint.read::<Option<Box<RawValue>>>(&answer) {
                let Ok(header) = read_header(&endpoint, &raw, self.rules.proofs) else {
                    return false;
                };
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
        let header = ask_header(endpoint, header_by_number(number), self.rules.proofs).await?;
        let header = header.ok_or_else(missing)?;
        if header.number == number {
            return Ok(header);
        }
        endpoint.caught_lying("it gives another header than was asked for");
        Err(missing())
    }
}
