//! Sample RPC: answers JSON-RPC calls from the ledger.

use alloy::{
    consensus::Transaction as _,
    hex,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
    sol,
    sol_types::{Revert, SolCall as _, SolError as _, SolValue as _},
};
use serde_json::{Value, json};

use super::{
    CHAIN_ID, TOKEN, TOKEN_SYMBOL,
    block::{SHOP, SampleBlock},
    ledger::Ledger,
};

sol! {
    function symbol() external view returns (string);
    function decimals() external view returns (uint8);
    function balanceOf(address owner) external view returns (uint256);
}

/// The reason why each call of the shop fails.
const REVERT_REASON: &str = "the shop is closed";

/// An error of JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RpcFailure {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcFailure {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The error as JSON.
    pub(super) fn to_json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}

/// Answers a call. Subscriptions are the server's.
pub(super) fn answer(ledger: &Ledger, method: &str, params: &Value) -> Result<Value, RpcFailure> {
    let hash = || {
        params[0]
            .as_str()
            .and_then(|text| text.parse::<B256>().ok())
    };
    let block_of_hash = || hash().and_then(|hash| ledger.by_hash(hash));
    match method {
        "eth_chainId" => Ok(json!(format!("{CHAIN_ID:#x}"))),
        "eth_blockNumber" => Ok(json!(
            ledger
                .tip()
                .map(|tip| format!("{:#x}", tip.header.inner.number))
        )),
        "eth_getBlockByHash" => Ok(block_json(block_of_hash(), &params[1])),
        "eth_getBlockByNumber" => Ok(block_json(at(ledger, &params[0]), &params[1])),
        "eth_getBlockReceipts" => {
            let block = block_of_hash().or_else(|| at(ledger, &params[0]));
            Ok(json!(block.map(|block| &block.receipts)))
        }
        "eth_getTransactionByHash" => Ok(hash().map_or(Value::Null, |hash| {
            let is_it = |one: &&Transaction| hash_of(one) == hash;
            let mut included = ledger.branch().flat_map(|block| &block.transactions);
            let found = included.find(is_it);
            json!(found.or_else(|| ledger.mempool().find(is_it)))
        })),
        "eth_getTransactionReceipt" => Ok(hash().map_or(Value::Null, |hash| {
            let mut receipts = ledger.branch().flat_map(|block| &block.receipts);
            json!(receipts.find(|receipt| receipt.transaction_hash == hash))
        })),
        "eth_getTransactionCount" => {
            let (owner, block) = (owner(&params[0])?, state(ledger, &params[1])?);
            let mut nonce = block.accounts.get(&owner).map_or(0, |one| one.nonce);
            if params[1] == "pending" {
                let own = ledger.mempool().filter(|one| one.inner.signer() == owner);
                nonce = own.map(|one| one.nonce() + 1).fold(nonce, u64::max);
            }
            Ok(json!(format!("{nonce:#x}")))
        }
        "eth_getBalance" => {
            let (owner, block) = (owner(&params[0])?, state(ledger, &params[1])?);
            let coins = block.accounts.get(&owner).map(|one| one.coins);
            Ok(json!(format!("{:#x}", coins.unwrap_or_default())))
        }
        "eth_call" => call(ledger, params),
        "debug_traceBlockByHash" => match block_of_hash() {
            Some(block) => {
                let named = |one| json!({"txHash": hash_of(one), "result": trace(one)});
                Ok(block.transactions.iter().map(named).collect())
            }
            None => Err(RpcFailure::new(-32_000, "block not found")),
        },
        "debug_traceTransaction" => {
            let mut included = ledger.branch().flat_map(|block| &block.transactions);
            let found = included.find(|one| Some(hash_of(one)) == hash());
            let missing = || RpcFailure::new(-32_000, "transaction not found");
            found.map(trace).ok_or_else(missing)
        }
        _ => Err(RpcFailure::new(
            -32_601,
            format!("the method {method} does not exist"),
        )),
    }
}

/// The block that a tag or a number names.
fn at<'a>(ledger: &'a Ledger, tag: &Value) -> Option<&'a SampleBlock> {
    match tag.as_str()? {
        "latest" | "pending" => ledger.tip(),
        "earliest" => ledger.branch().last(),
        // What twelve blocks follow, as the chain's configuration has it.
        "safe" | "finalized" => {
            let tip = ledger.tip()?.header.inner.number;
            ledger.by_number(tip.checked_sub(12)?)
        }
        number => {
            let number = u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()?;
            ledger.by_number(number)
        }
    }
}

/// The block whose accounts a call reads.
fn state<'a>(ledger: &'a Ledger, block: &Value) -> Result<&'a SampleBlock, RpcFailure> {
    let hash = block.get("blockHash").and_then(Value::as_str);
    let found = match hash.and_then(|hash| hash.parse().ok()) {
        Some(hash) => ledger.by_hash(hash),
        None => at(ledger, block),
    };
    found.ok_or_else(|| RpcFailure::new(-32_000, "header not found"))
}

fn owner(text: &Value) -> Result<Address, RpcFailure> {
    let parsed = text.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| RpcFailure::new(-32_602, "expected an address"))
}

/// A block with its transactions, or their hashes.
fn block_json(block: Option<&SampleBlock>, whole: &Value) -> Value {
    let Some(block) = block else {
        return Value::Null;
    };
    let mut all = json!(block.header);
    all["uncles"] = json!([]);
    all["transactions"] = match whole == &Value::Bool(true) {
        true => json!(block.transactions),
        false => {
            let hashes = block.transactions.iter().map(|one| one.inner.tx_hash());
            hashes.map(|hash| json!(hash)).collect()
        }
    };
    all
}

/// Answers a call of a contract.
fn call(ledger: &Ledger, params: &Value) -> Result<Value, RpcFailure> {
    let request = &params[0];
    let to = request["to"].as_str().and_then(|to| to.parse().ok());
    if to == Some(SHOP) {
        return Err(RpcFailure {
            code: 3,
            message: format!("execution reverted: {REVERT_REASON}"),
            data: Some(json!(revert_data())),
        });
    }
    let data = request["data"]
        .as_str()
        .or_else(|| request["input"].as_str());
    let data = data
        .and_then(|data| hex::decode(data).ok())
        .unwrap_or_default();
    if to != Some(TOKEN) {
        // No contract is there.
        return Ok(json!("0x"));
    }
    let block = state(ledger, &params[1])?;
    let result = match data.first_chunk::<4>() {
        Some(&symbolCall::SELECTOR) => TOKEN_SYMBOL.abi_encode(),
        Some(&decimalsCall::SELECTOR) => U256::from(18).abi_encode(),
        Some(&balanceOfCall::SELECTOR) => {
            let call = balanceOfCall::abi_decode(&data);
            let call = call.map_err(|_| RpcFailure::new(-32_602, "expected an owner"))?;
            let tokens = block.accounts.get(&call.owner).map(|one| one.tokens);
            tokens.unwrap_or_default().abi_encode()
        }
        _ => return Err(RpcFailure::new(3, "execution reverted")),
    };
    Ok(json!(hex::encode_prefixed(result)))
}

/// The trace of a transaction by `callTracer`: no contract pays coins on.
fn trace(transaction: &Transaction) -> Value {
    let mut top = json!({
        "type": "CALL", "from": transaction.inner.signer(), "to": transaction.to(),
        "value": transaction.value(), "input": transaction.input(), "calls": [],
    });
    if transaction.to() == Some(SHOP) {
        top["error"] = json!("execution reverted");
        top["output"] = json!(revert_data());
    }
    top
}

fn hash_of(transaction: &Transaction) -> B256 {
    *transaction.inner.tx_hash()
}

/// The data of the shop's reverts.
fn revert_data() -> String {
    hex::encode_prefixed(Revert::from(REVERT_REASON).abi_encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_transaction_has_a_receipt_and_a_trace() {
        let mut ledger = Ledger::new(1_750_000_000_000);
        let failed = (0..60).find_map(|step| {
            ledger.step(1_750_000_000_000 + step * 2_000);
            let mut receipts = ledger.tip()?.receipts.iter();
            Some(receipts.find(|receipt| !receipt.status())?.transaction_hash)
        });
        let call = |method: &str| answer(&ledger, method, &json!([failed])).unwrap();
        assert_eq!(call("eth_getTransactionReceipt")["status"], "0x0");
        let trace = call("debug_traceTransaction");
        assert_eq!(trace["error"], "execution reverted");
        let data = hex::decode(trace["output"].as_str().unwrap()).unwrap();
        assert_eq!(Revert::abi_decode(&data).unwrap().reason, REVERT_REASON);
        let unknown = answer(&ledger, "eth_mine", &json!([])).unwrap_err();
        assert_eq!(unknown.to_json()["code"], -32_601);
    }
}
