//! Calls of tokens, and many of them as one through Multicall3.

use alloy::{
    hex,
    primitives::{Address, Bytes, U256, address},
    sol,
    sol_types::SolCall as _,
};
use serde_json::{Value, json};

use crate::{BlockRef, Call, abi::word_at};

/// Where Multicall3 is on nearly every chain.
const MULTICALL3: Address = address!("ca11bde05977b3631167028862be2a173976ca11");
/// How many calls go into one: a call of a token costs up to some 100,000 gas, and nodes
/// allow tens of millions.
pub(super) const TOGETHER: usize = 100;
/// The longest symbol that is shown, in characters.
const MAX_SYMBOL: usize = 32;

mod interface {
    #![allow(missing_docs, reason = "the functions of contracts, as they are known")]
    super::sol! {
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) returns (Result[] results);
        function balanceOf(address owner) returns (uint256 balance);
        function symbol() returns (string text);
        function decimals() returns (uint8 count);
        function supportsInterface(bytes4 id) returns (bool is);
    }
}

/// A call of a contract that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    contract: Address,
    data: Vec<u8>,
}

impl View {
    pub(super) fn balance(token: Address, owner: Address) -> Self {
        let data = interface::balanceOfCall { owner }.abi_encode();
        Self {
            contract: token,
            data,
        }
    }

    /// What is read of a token once: symbol, decimals, and whether it is an ERC-721.
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

    /// The call alone.
    pub(super) fn call(&self, block: &BlockRef) -> Call {
        eth_call(self.contract, &self.data, block)
    }
}

/// Many calls as one, none of which fails the others.
pub(super) fn aggregate(views: &[View], block: &BlockRef) -> Call {
    let calls = views.iter().map(|view| interface::Call3 {
        target: view.contract,
        allowFailure: true,
        callData: Bytes::copy_from_slice(&view.data),
    });
    let calls = calls.collect();
    let data = interface::aggregate3Call { calls }.abi_encode();
    eth_call(MULTICALL3, &data, block)
}

/// What each of `count` calls returned; none where it failed. None of all if there is no
/// Multicall3.
pub(super) fn aggregated(answer: &Value, count: usize) -> Option<Vec<Option<Vec<u8>>>> {
    let data = returned(answer)?;
    let results = interface::aggregate3Call::abi_decode_returns(&data).ok()?;
    let results = results.into_iter();
    let results: Vec<_> = results
        .map(|result| result.success.then(|| result.returnData.to_vec()))
        .collect();
    (results.len() == count).then_some(results)
}

/// What a call returned.
pub(super) fn returned(answer: &Value) -> Option<Vec<u8>> {
    hex::decode(answer.as_str()?).ok()
}

fn eth_call(to: Address, data: &[u8], block: &BlockRef) -> Call {
    let data = hex::encode_prefixed(data);
    Call {
        method: "eth_call",
        params: json!([{"to": to, "data": data}, {"blockHash": block.hash}]),
    }
}

/// The balance of the chain's own coin.
pub(super) fn coin_balance(wallet: Address, block: &BlockRef) -> Call {
    Call {
        method: "eth_getBalance",
        params: json!([wallet, {"blockHash": block.hash}]),
    }
}

/// A symbol, as a text or, in old tokens, as the start of a word.
pub(super) fn symbol(data: &[u8]) -> Option<String> {
    let text = match data {
        word if word.len() == 32 => {
            let end = word.iter().position(|byte| *byte == 0).unwrap_or(32);
            String::from_utf8(word[..end].to_vec()).ok()?
        }
        _ => interface::symbolCall::abi_decode_returns(data).ok()?,
    };
    let text = text.chars().filter(|c| !c.is_control()).take(MAX_SYMBOL);
    let text: String = text.collect();
    (!text.is_empty()).then_some(text)
}

pub(super) fn decimals(data: &[u8]) -> Option<u32> {
    u8::try_from(number(data)?).ok().map(u32::from)
}

/// A number that a call returned.
pub(super) fn number(data: &[u8]) -> Option<U256> {
    word_at(data, 0)
}
