//! Wallet reads: balances and token metadata, many contract calls in one `eth_call`.
//!
//! Multicall3 runs up to a hundred calls as one. Where it is not deployed, each call is made
//! alone, and so is each call that failed beside others.

use alloy::{
    hex,
    primitives::{Address, Bytes, U256, address},
    sol,
    sol_types::SolCall as _,
};
use serde_json::{Value, json};

use crate::{
    BlockRef, Call, ReceiptId, RpcClient, RpcError, abi::word_at, decode::visible_name,
    receipt::outcome,
};

/// The address of Multicall3, the same on nearly every chain.
const MULTICALL3: Address = address!("ca11bde05977b3631167028862be2a173976ca11");

/// Contract calls in one Multicall3 call. A token's call costs up to some 100,000 gas, and nodes
/// allow tens of millions.
const CALLS_PER_MULTICALL: usize = 100;

mod interface {
    #![allow(missing_docs, reason = "these functions belong to deployed contracts")]
    super::sol! {
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) returns (Result[] results);
        function balanceOf(address owner) returns (uint256 balance);
        function symbol() returns (string text);
        function totalSupply() returns (uint256 amount);
        function decimals() returns (uint8 count);
        function supportsInterface(bytes4 id) returns (bool is);
    }
}

/// The response to one call.
pub(super) type Response = Result<Value, RpcError>;

/// A contract call that changes no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViewCall {
    contract: Address,
    data: Vec<u8>,
}

impl ViewCall {
    /// The token balance of `owner`.
    pub(super) fn balance(token: Address, owner: Address) -> Self {
        let data = interface::balanceOfCall { owner }.abi_encode();
        Self {
            contract: token,
            data,
        }
    }

    /// The total supply of a token.
    pub(super) fn supply(token: Address) -> Self {
        Self {
            contract: token,
            data: interface::totalSupplyCall {}.abi_encode(),
        }
    }

    /// The metadata of a token: symbol, decimals, and whether it is an ERC-721.
    pub(super) fn metadata(token: Address) -> [Self; 3] {
        let erc721 = interface::supportsInterfaceCall {
            id: [0x80, 0xac, 0x58, 0xcd].into(),
        };
        [
            interface::symbolCall {}.abi_encode(),
            interface::decimalsCall {}.abi_encode(),
            erc721.abi_encode(),
        ]
        .map(|data| Self {
            contract: token,
            data,
        })
    }

    fn call(&self, block: &BlockRef) -> Call {
        eth_call(self.contract, &self.data, block)
    }
}

/// Makes all calls, in order. Makes no request for an empty list.
pub(super) async fn call_all<R: RpcClient>(client: &R, calls: Vec<Call>) -> Vec<Response> {
    if calls.is_empty() {
        return Vec::new();
    }
    client.call_all(calls).await
}

/// Whether transactions succeeded, by their receipts. None where no node returned the receipt.
pub(super) async fn read_outcomes<R: RpcClient>(
    client: &R,
    ids: &[ReceiptId],
) -> Vec<Option<bool>> {
    let calls = ids.iter().map(ReceiptId::call).collect();
    let responses = call_all(client, calls).await;
    let outcomes = ids.iter().zip(responses).map(|(id, response)| {
        let receipt = response.ok().filter(|receipt| id.matches(receipt))?;
        outcome(&receipt)
    });
    outcomes.collect()
}

/// The result of a contract call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// The data that the contract returned. Empty if there is no contract.
    Data(Vec<u8>),
    /// The contract reverted.
    Reverted,
    /// No node answered.
    Unread,
}

impl Reading {
    /// The data, if the contract returned any.
    pub(super) fn data(&self) -> Option<&[u8]> {
        match self {
            Self::Data(data) => Some(data),
            Self::Reverted | Self::Unread => None,
        }
    }
}

/// Makes contract calls at a block. Returns the reading of each.
///
/// A call that fails beside others is made again alone: one contract can use up the gas of all.
pub(super) async fn view_all<R: RpcClient>(
    client: &R,
    views: &[ViewCall],
    block: &BlockRef,
) -> Vec<Reading> {
    let chunks: Vec<_> = views.chunks(CALLS_PER_MULTICALL).collect();
    let calls = chunks.iter().map(|chunk| multicall(chunk, block)).collect();
    let responses = call_all(client, calls).await;
    let mut readings = Vec::with_capacity(views.len());
    // Without Multicall3 the call succeeds: the node has the state of the block.
    let mut has_state = false;
    for (chunk, response) in chunks.into_iter().zip(responses) {
        has_state |= shows_state(&response);
        let decoded = response
            .ok()
            .and_then(|response| decode_multicall(&response, chunk.len()));
        readings.extend(decoded.unwrap_or_else(|| vec![Reading::Unread; chunk.len()]));
    }
    readings.resize(views.len(), Reading::Unread);
    let failed = (0..views.len()).filter(|index| readings[*index].data().is_none());
    let failed: Vec<_> = failed.collect();
    let calls = failed.iter().map(|index| views[*index].call(block));
    let responses = call_all(client, calls.collect()).await;
    has_state |= responses.iter().any(shows_state);
    for (index, response) in failed.into_iter().zip(responses) {
        readings[index] = match response {
            Ok(data) => return_data(&data).map_or(Reading::Unread, Reading::Data),
            Err(RpcError::Refused { .. }) => Reading::Reverted,
            // The node has the state, so the error is the called contract's own.
            Err(RpcError::Unavailable { .. }) if has_state => Reading::Reverted,
            Err(RpcError::Unavailable { .. } | RpcError::Unreachable { .. }) => Reading::Unread,
        };
    }
    readings
}

/// Whether a response to a contract call shows that the node has the state of its block.
fn shows_state(response: &Response) -> bool {
    matches!(response, Ok(_) | Err(RpcError::Refused { .. }))
}

/// The coin balance of a wallet at a block.
pub(super) fn coin_balance(wallet: Address, block: &BlockRef) -> Call {
    Call::new("eth_getBalance", json!([wallet, {"blockHash": block.hash}]))
}

fn multicall(views: &[ViewCall], block: &BlockRef) -> Call {
    let calls = views.iter().map(|view| interface::Call3 {
        target: view.contract,
        allowFailure: true,
        callData: Bytes::copy_from_slice(&view.data),
    });
    let calls = calls.collect();
    let data = interface::aggregate3Call { calls }.abi_encode();
    eth_call(MULTICALL3, &data, block)
}

/// Return data of each of `count` calls. `None` if Multicall3 is not deployed.
fn decode_multicall(response: &Value, count: usize) -> Option<Vec<Reading>> {
    let data = return_data(response)?;
    let results = interface::aggregate3Call::abi_decode_returns(&data).ok()?;
    let results = results.into_iter();
    let results: Vec<_> = results
        .map(|result| match result.success {
            true => Reading::Data(result.returnData.to_vec()),
            false => Reading::Reverted,
        })
        .collect();
    (results.len() == count).then_some(results)
}

fn return_data(response: &Value) -> Option<Vec<u8>> {
    hex::decode(response.as_str()?).ok()
}

fn eth_call(to: Address, data: &[u8], block: &BlockRef) -> Call {
    let data = hex::encode_prefixed(data);
    Call::new(
        "eth_call",
        json!([{"to": to, "data": data}, {"blockHash": block.hash}]),
    )
}

/// Decodes a symbol: a string, or in old tokens such as MKR a `bytes32`.
pub(super) fn symbol(data: &[u8]) -> Option<String> {
    let text = match data {
        word if word.len() == 32 => {
            let end = word.iter().position(|byte| *byte == 0).unwrap_or(32);
            String::from_utf8(word[..end].to_vec()).ok()?
        }
        _ => interface::symbolCall::abi_decode_returns(data).ok()?,
    };
    visible_name(&text)
}

/// Decodes a token's number of decimals.
pub(super) fn decimals(data: &[u8]) -> Option<u32> {
    u8::try_from(number(data)?).ok().map(u32::from)
}

/// Decodes a number.
pub(super) fn number(data: &[u8]) -> Option<U256> {
    word_at(data, 0)
}
