//! Header fetching: reads single headers and the missing headers of a branch, with proof.

use alloy::primitives::B256;
use serde_json::value::RawValue;

use crate::{
    BlockRef, Call,
    endpoint::{Endpoint, EndpointPool, Failure},
    proof::{self, ProofCheck, ProofPolicy},
    rpc_types::{HeaderJson, header_by_hash, header_by_number},
    tree::HeaderTree,
};

/// A gap of more headers than this is read by height, in batches. Their hashes prove that
/// they link, and reading them one by one by hash would cost a round trip each.
const MAX_HEADERS_BY_HASH: u64 = 3;

/// Fetches a header. None if the endpoint does not have it.
pub(crate) async fn fetch_header(
    endpoint: &Endpoint,
    call: Call,
    proofs: ProofPolicy,
) -> Result<Option<BlockRef>, Failure> {
    let raw: Option<Box<RawValue>> = endpoint.call(call).await?;
    raw.map(|raw| parse_header(endpoint, &raw, proofs))
        .transpose()
}

/// Parses a pushed header. One that does not hash to its hash may only lack fields that the node
/// does not push, so it is fetched whole by its hash, and that one must.
pub(super) async fn parse_pushed_header(
    endpoint: &Endpoint,
    raw: &RawValue,
    proofs: ProofPolicy,
) -> Result<BlockRef, Failure> {
    let pushed = endpoint.parse::<HeaderJson>(raw)?.block();
    if proofs.header == ProofCheck::Waived || proof::header(raw, pushed.hash).is_ok() {
        return Ok(pushed);
    }
    let whole = fetch_header(endpoint, header_by_hash(pushed.hash), proofs).await?;
    let whole = whole.ok_or_else(|| Failure::NotFound(format!("header {}", pushed.hash)))?;
    if whole == pushed {
        return Ok(whole);
    }
    endpoint.report_invalid(OTHER_HEADER);
    Err(Failure::Invalid(OTHER_HEADER.to_owned()))
}

/// Parses a header, and rejects one that does not hash to its hash.
pub(crate) fn parse_header(
    endpoint: &Endpoint,
    raw: &RawValue,
    proofs: ProofPolicy,
) -> Result<BlockRef, Failure> {
    let header = endpoint.parse::<HeaderJson>(raw)?.block();
    if proofs.header == ProofCheck::Required
        && let Err(error) = proof::header(raw, header.hash)
    {
        let reason = format!("block {}: {error}", header.number);
        endpoint.report_invalid(&reason);
        return Err(Failure::Invalid(reason));
    }
    Ok(header)
}

/// Fetches the headers that a tree lacks.
pub(super) struct HeaderFetcher {
    pub(super) pool: EndpointPool,
    pub(super) proofs: ProofPolicy,
}

impl HeaderFetcher {
    /// Fetches the header with this hash into the tree. If many are missing between it and the
    /// tip, fetches them all. The endpoint that reported the head is called first.
    pub(super) async fn fetch_into(
        &self,
        tree: &mut HeaderTree,
        reporter: usize,
        hash: B256,
        number: u64,
    ) -> Result<(), Failure> {
        let tip = tree.tip().map_or(number, |tip| tip.number);
        if number > tip.saturating_add(MAX_HEADERS_BY_HASH)
            && self
                .fetch_range(tree, reporter, tip + 1, hash, number)
                .await
        {
            return Ok(());
        }
        let mut last = Failure::NotFound(format!("header {hash}"));
        let first = self.pool.endpoints().get(reporter).cloned();
        let others = self.pool.by_health(number).into_iter();
        let others = others.filter(|other| other.backoff().is_zero());
        for endpoint in first.into_iter().chain(others) {
            match fetch_header(&endpoint, header_by_hash(hash), self.proofs).await {
                Ok(Some(header)) => {
                    if header.hash == hash && header.number == number {
                        tree.insert(header);
                        return Ok(());
                    }
                    endpoint.report_invalid(OTHER_HEADER);
                }
                Ok(None) => {}
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Fetches headers by height. Returns whether the one with this hash was among them.
    async fn fetch_range(
        &self,
        tree: &mut HeaderTree,
        reporter: usize,
        from: u64,
        hash: B256,
        to: u64,
    ) -> bool {
        let Some(endpoint) = self.pool.endpoints().get(reporter).cloned() else {
            return false;
        };
        let calls: Vec<_> = (from..=to).map(header_by_number).collect();
        let mut has_header = false;
        for response in endpoint.call_all(&calls).await.into_iter().flatten() {
            // A missing header is null.
            if let Ok(Some(raw)) = endpoint.parse::<Option<Box<RawValue>>>(&response) {
                let Ok(header) = parse_header(&endpoint, &raw, self.proofs) else {
                    return false;
                };
                has_header |= header.hash == hash;
                tree.insert(header);
            }
        }
        has_header
    }

    /// The header at this height on the branch of the endpoint that reported a head.
    pub(super) async fn header_at(
        &self,
        reporter: usize,
        number: u64,
    ) -> Result<BlockRef, Failure> {
        let missing = || Failure::NotFound(format!("header {number}"));
        let endpoint = self.pool.endpoints().get(reporter).ok_or_else(missing)?;
        let header = fetch_header(endpoint, header_by_number(number), self.proofs).await?;
        let header = header.ok_or_else(missing)?;
        if header.number == number {
            return Ok(header);
        }
        endpoint.report_invalid(OTHER_HEADER);
        Err(missing())
    }
}

const OTHER_HEADER: &str = "it returned another header than the requested one";
