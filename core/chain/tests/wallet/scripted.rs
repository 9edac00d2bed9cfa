//! Scripted node: balances, receipts, traces and contracts, and every request for them.

use std::{collections::HashMap, sync::Mutex};

use alloy::{
    hex,
    primitives::{Address, B256, U256, address, keccak256},
    sol,
    sol_types::SolCall as _,
};
use serde_json::{Value, json};
use tidewire_chain::{Call, RpcClient, RpcError};

use crate::support::{CHAIN, refused};

const MULTICALL3: Address = address!("ca11bde05977b3631167028862be2a173976ca11");

mod interface {
    super::sol! {
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) returns (Result[] results);
        function balanceOf(address owner) returns (uint256 balance);
        function symbol() returns (string text);
    }
}

/// A node with balances by block, and one kind of token.
#[derive(Default)]
pub(crate) struct Scripted {
    /// By block hash and wallet.
    pub(crate) coins: HashMap<(B256, Address), u64>,
    /// By block hash, token and wallet.
    pub(crate) tokens: HashMap<(B256, Address, Address), u64>,
    pub(crate) nfts: Vec<Address>,
    /// Tokens whose symbol is a `bytes32`.
    pub(crate) old: Vec<Address>,
    pub(crate) has_multicall: bool,
    /// A contract that uses up all gas, also that of the calls after it in one Multicall3 call.
    pub(crate) gas_bomb: Option<Address>,
    pub(crate) trace: Option<Value>,
    pub(crate) receipts: HashMap<B256, Result<Value, RpcError>>,
    /// A method that fails, but for calls of Multicall3, which are answered as without it.
    pub(crate) failing: Option<(&'static str, RpcError)>,
    /// The supply of every token.
    pub(crate) supply: Option<u64>,
    /// Contracts that exist only in one block.
    pub(crate) made_in: Vec<(Address, B256)>,
    pub(crate) is_down: bool,
    pub(crate) requests: Mutex<Vec<Vec<Call>>>,
}

impl Scripted {
    fn view(&self, block: B256, contract: Address, data: &[u8]) -> Option<Vec<u8>> {
        let made_in = self.made_in.iter().find(|(made, _)| *made == contract);
        if made_in.is_some_and(|(_, made_in)| *made_in != block) {
            return Some(Vec::new());
        }
        let selector = &data[..4];
        let is_nft = self.nfts.contains(&contract);
        if selector == &keccak256("balanceOf(address)")[..4] {
            let owner = interface::balanceOfCall::abi_decode(data).unwrap().owner;
            let amount = self.tokens.get(&(block, contract, owner));
            let amount = U256::from(amount.copied().unwrap_or(0));
            Some(amount.to_be_bytes::<32>().to_vec())
        } else if selector == &keccak256("symbol()")[..4] {
            if self.old.contains(&contract) {
                return Some(B256::right_padding_from(b"MKR").to_vec());
            }
            Some(interface::symbolCall::abi_encode_returns(&"TOK".to_owned()))
        } else if selector == &keccak256("totalSupply()")[..4] {
            self.supply
                .map(|supply| U256::from(supply).to_be_bytes::<32>().to_vec())
        } else if selector == &keccak256("decimals()")[..4] {
            (!is_nft).then(|| U256::from(6).to_be_bytes::<32>().to_vec())
        } else {
            is_nft.then(|| U256::ONE.to_be_bytes::<32>().to_vec())
        }
    }

    fn respond(&self, call: &Call) -> Result<Value, RpcError> {
        if self.is_down {
            return Err(RpcError::Unreachable {
                chain: CHAIN,
                reason: "down".to_owned(),
            });
        }
        if let Some((method, error)) = &self.failing
            && *method == call.method
            && (call.params[0]["to"] != json!(MULTICALL3)
                || matches!(error, RpcError::Unavailable { .. }))
        {
            return Err(error.clone());
        }
        let block = || {
            call.params[1]["blockHash"]
                .as_str()
                .unwrap()
                .parse::<B256>()
                .unwrap()
        };
        match call.method {
            "eth_getBalance" => {
                let wallet: Address = call.params[0].as_str().unwrap().parse().unwrap();
                let amount = self.coins.get(&(block(), wallet)).copied().unwrap_or(0);
                Ok(json!(format!("{amount:#x}")))
            }
            "eth_getTransactionReceipt" => {
                let hash: B256 = call.params[0].as_str().unwrap().parse().unwrap();
                self.receipts.get(&hash).cloned().unwrap_or(Ok(Value::Null))
            }
            "debug_traceBlockByNumber" | "trace_block" => Err(refused(-32_601, None)),
            "debug_traceBlockByHash" => self.trace.clone().ok_or_else(|| refused(-32_601, None)),
            "eth_call" => {
                let to: Address = call.params[0]["to"].as_str().unwrap().parse().unwrap();
                let data = hex::decode(call.params[0]["data"].as_str().unwrap()).unwrap();
                if to == MULTICALL3 && !self.has_multicall {
                    return Ok(json!("0x"));
                }
                if to == MULTICALL3 {
                    let calls = interface::aggregate3Call::abi_decode(&data).unwrap().calls;
                    let mut has_gas = true;
                    let results = calls.iter().map(|call| {
                        has_gas &= Some(call.target) != self.gas_bomb;
                        let returned = self.view(block(), call.target, &call.callData);
                        let returned = returned.filter(|_| has_gas);
                        interface::Result {
                            success: returned.is_some(),
                            returnData: returned.unwrap_or_default().into(),
                        }
                    });
                    let results = results.collect();
                    let encoded = interface::aggregate3Call::abi_encode_returns(&results);
                    return Ok(json!(hex::encode_prefixed(encoded)));
                }
                self.view(block(), to, &data)
                    .filter(|_| Some(to) != self.gas_bomb)
                    .map(|data| json!(hex::encode_prefixed(data)))
                    .ok_or_else(|| refused(3, None))
            }
            other => panic!("{other} is not expected"),
        }
    }
}

impl RpcClient for Scripted {
    async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
        let responses = calls.iter().map(|call| self.respond(call)).collect();
        self.requests.lock().unwrap().push(calls);
        responses
    }
}
