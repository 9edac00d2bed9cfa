//! Event topics: the first topics of token events, and the addresses of Permit2.

use alloy::primitives::{Address, B256, address, b256};

/// `Transfer(address,address,uint256)`, of ERC-20 and ERC-721.
pub(super) const TRANSFER: B256 =
    b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
/// `Approval(address,address,uint256)`, of ERC-20 and ERC-721.
pub(super) const APPROVAL: B256 =
    b256!("8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925");
/// `ApprovalForAll(address,address,bool)`, of ERC-721 and ERC-1155.
pub(super) const APPROVAL_FOR_ALL: B256 =
    b256!("17307eab39ab6107e8899845ad3d59bd9653f200f220920489ca2b5937696c31");
/// `TransferSingle(address,address,address,uint256,uint256)`, of ERC-1155.
pub(super) const TRANSFER_SINGLE: B256 =
    b256!("c3d58168c5ae7397731d063d5bbf3d657854427343f4c083240f7aacaa2d0f62");
/// `TransferBatch(address,address,address,uint256[],uint256[])`, of ERC-1155.
pub(super) const TRANSFER_BATCH: B256 =
    b256!("4a39dc06d4c0dbc64b70af90fd698a233a518aa5d07e595d983b8c0526c8f7fb");
/// `Deposit(address,uint256)`, of WETH.
pub(super) const DEPOSIT: B256 =
    b256!("e1fffcc4923d04b559f4d29a8bfc6cda04eb5b0d3c460751c2402c5c5cc9109c");
/// `Withdrawal(address,uint256)`, of WETH.
pub(super) const WITHDRAWAL: B256 =
    b256!("7fcf532c15f0a6db0bd6d0e038bea71d30d808c7d98cb3bf7268a95bf5081b65");
/// `Approval(address,address,address,uint160,uint48)`, of Permit2.
pub(super) const PERMIT2_APPROVAL: B256 =
    b256!("da9fa7c1b00402c17d0161b249b1ab8bbec047c5a52207b9c112deffd817036b");
/// `Permit(address,address,address,uint160,uint48,uint48)`, of Permit2.
pub(super) const PERMIT2_PERMIT: B256 =
    b256!("c6a377bfc4eb120024a8ac08eef205be16b817020812c73223e81d1bdb9708ec");
/// `Lockdown(address,address,address)`, of Permit2.
pub(super) const PERMIT2_LOCKDOWN: B256 =
    b256!("89b1add15eff56b3dfe299ad94e01f2b52fbcb80ae1a3baea6ae8c04cb2b98a4");

/// The addresses of Permit2: on most chains, and on zkSync Era. Other contracts can emit the same
/// events, but these grant no rights.
pub(super) const PERMIT2: [Address; 2] = [
    address!("000000000022d473030f116ddee9f6b43ac78ba3"),
    address!("0000000000225e31d15943971f47ad3022f714fa"),
];

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;

    use super::*;

    #[test]
    fn each_topic_is_the_hash_of_its_signature() {
        for (topic, signature) in [
            (TRANSFER, "Transfer(address,address,uint256)"),
            (APPROVAL, "Approval(address,address,uint256)"),
            (APPROVAL_FOR_ALL, "ApprovalForAll(address,address,bool)"),
            (
                TRANSFER_SINGLE,
                "TransferSingle(address,address,address,uint256,uint256)",
            ),
            (
                TRANSFER_BATCH,
                "TransferBatch(address,address,address,uint256[],uint256[])",
            ),
            (DEPOSIT, "Deposit(address,uint256)"),
            (WITHDRAWAL, "Withdrawal(address,uint256)"),
            (
                PERMIT2_APPROVAL,
                "Approval(address,address,address,uint160,uint48)",
            ),
            (
                PERMIT2_PERMIT,
                "Permit(address,address,address,uint160,uint48,uint48)",
            ),
            (PERMIT2_LOCKDOWN, "Lockdown(address,address,address)"),
        ] {
            assert_eq!(topic, keccak256(signature), "{signature}");
        }
    }
}
