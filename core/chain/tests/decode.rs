//! Tests of log decoding: token events and revert reasons, from standard and other contracts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use alloy::primitives::{Address, B256, U256, address, keccak256};
use proptest::prelude::*;
use tidewire_chain::decode::{
    CustomErrors, MalformedLog, NftAmount, TokenEvent, decode, revert_reason,
};

const TOKEN: Address = address!("00000000000000000000000000000000000000aa");
const PERMIT2: Address = address!("000000000022d473030f116ddee9f6b43ac78ba3");
const TRANSFER: &str = "Transfer(address,address,uint256)";
const APPROVAL: &str = "Approval(address,address,uint256)";
const BATCH: &str = "TransferBatch(address,address,address,uint256[],uint256[])";

fn account(last: u8) -> Address {
    Address::with_last_byte(last)
}

fn word(number: u64) -> B256 {
    U256::from(number).into()
}

fn topics(signature: &str, arguments: &[B256]) -> Vec<B256> {
    let mut topics = vec![keccak256(signature)];
    topics.extend_from_slice(arguments);
    topics
}

fn data(words: &[B256]) -> Vec<u8> {
    words.iter().flat_map(|word| word.0).collect()
}

fn token(
    signature: &str,
    arguments: &[B256],
    words: &[B256],
) -> Result<Option<TokenEvent>, MalformedLog> {
    decode(TOKEN, &topics(signature, arguments), &data(words))
}

#[test]
fn the_number_of_topics_distinguishes_tokens_from_nfts() {
    let pair = [account(1).into_word(), account(2).into_word()];
    let expected = |indexed| TokenEvent::Erc20Transfer {
        from: account(1),
        to: account(2),
        value: U256::from(7),
        indexed,
    };
    assert_eq!(token(TRANSFER, &pair, &[word(7)]), Ok(Some(expected(true))));
    let nothing_indexed = [pair[0], pair[1], word(7)];
    assert_eq!(
        token(TRANSFER, &[], &nothing_indexed),
        Ok(Some(expected(false)))
    );
    assert_eq!(
        token(TRANSFER, &nothing_indexed, &[]),
        Ok(Some(TokenEvent::Erc721Transfer {
            from: account(1),
            to: account(2),
            id: U256::from(7),
        }))
    );
    assert_eq!(
        token(APPROVAL, &nothing_indexed, &[]),
        Ok(Some(TokenEvent::Erc721Approval {
            owner: account(1),
            spender: account(2),
            id: U256::from(7),
        }))
    );
}

#[test]
fn a_token_id_may_have_256_bits() {
    let id: B256 = U256::MAX.into();
    let event = token(
        TRANSFER,
        &[account(1).into_word(), account(2).into_word(), id],
        &[],
    );
    assert!(matches!(
        event,
        Ok(Some(TokenEvent::Erc721Transfer { id, .. })) if id == U256::MAX
    ));
}

#[test]
fn a_batch_decodes_to_pairs_and_may_be_empty() {
    let who = [1, 2, 3].map(|last| account(last).into_word());
    let two = [64, 160, 2, 10, 11, 2, 5, 6].map(word);
    let item = |id, amount| NftAmount {
        id: U256::from(id),
        amount: U256::from(amount),
    };
    let items = |event: Result<Option<TokenEvent>, MalformedLog>| match event {
        Ok(Some(TokenEvent::Erc1155Transfer { items, .. })) => items.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(items(token(BATCH, &who, &two)), [item(10, 5), item(11, 6)]);
    // An encoder may point both lists at the same empty one.
    assert_eq!(items(token(BATCH, &who, &[64, 64, 0].map(word))), []);
    let single = "TransferSingle(address,address,address,uint256,uint256)";
    assert_eq!(
        items(token(single, &who, &[10, 5].map(word))),
        [item(10, 5)]
    );
}

#[test]
fn a_log_that_breaks_the_abi_is_refused_with_the_events_name() {
    let pair = [account(1).into_word(), account(2).into_word()];
    let who = [1, 2, 3].map(|last| account(last).into_word());
    let refused = |event: Result<Option<TokenEvent>, MalformedLog>| event.unwrap_err().to_string();
    assert_eq!(
        refused(token(TRANSFER, &pair, &[])),
        "a log of Transfer has 3 topics and 0 bytes of data that do not fit its ABI"
    );
    // One topic, two topics, and a word that is not an address.
    refused(token(TRANSFER, &[], &[word(1)]));
    refused(token(TRANSFER, &pair[..1], &[word(1), word(2)]));
    refused(token(
        TRANSFER,
        &[B256::repeat_byte(1), pair[0]],
        &[word(1)],
    ));
    // Lists of different lengths, beyond the end of the data, and of huge lengths.
    for words in [
        [64, 128, 1, 10, 2, 5, 6].as_slice(),
        &[64, 1 << 40, 0],
        &[64, 96, u64::MAX, u64::MAX],
        &[64, 96, 1 << 59, 0],
        &[],
    ] {
        let words: Vec<_> = words.iter().copied().map(word).collect();
        refused(token(BATCH, &who, &words));
    }
    refused(token(
        "ApprovalForAll(address,address,bool)",
        &pair,
        &[word(2)],
    ));
    assert_eq!(decode(TOKEN, &[], &[]), Ok(None));
    assert_eq!(token("Swap(uint256)", &[], &[word(1)]), Ok(None));
}

#[test]
fn a_permit_counts_only_from_the_permit2_contract() {
    let who = [1, 2, 3].map(|last| account(last).into_word());
    let all: B256 = B256::from((U256::ONE << 160_usize) - U256::ONE);
    let signature = "Permit(address,address,address,uint160,uint48,uint48)";
    let event = decode(
        PERMIT2,
        &topics(signature, &who),
        &data(&[all, word(9), word(4)]),
    );
    let event = event.unwrap().unwrap();
    assert!(event.is_unlimited());
    assert!(matches!(
        event,
        TokenEvent::Permit2 { token, expiration: 9, nonce: Some(4), .. } if token == account(2)
    ));
    assert_eq!(token(signature, &who, &[all, word(9), word(4)]), Ok(None));
    let lockdown = decode(
        PERMIT2,
        &topics("Lockdown(address,address,address)", &who[..1]),
        &data(&who[1..]),
    );
    assert!(matches!(
        lockdown,
        Ok(Some(TokenEvent::Permit2 { spender, amount, .. }))
            if spender == account(3) && amount.is_zero()
    ));
}

#[test]
fn numbers_that_mean_all_are_unlimited() {
    let approval = |value| TokenEvent::Erc20Approval {
        owner: account(1),
        spender: account(2),
        value,
        indexed: true,
    };
    let greatest = |bits: usize| (U256::ONE << bits) - U256::ONE;
    for value in [
        U256::MAX,
        U256::MAX - U256::from(1_000),
        greatest(96),
        greatest(128),
        greatest(160),
    ] {
        assert!(approval(value).is_unlimited(), "{value}");
    }
    for value in [
        U256::ZERO,
        greatest(64),
        greatest(96) - U256::ONE,
        greatest(255),
    ] {
        assert!(!approval(value).is_unlimited(), "{value}");
    }
}

#[test]
fn revert_data_decodes_to_its_reason() {
    let errors = CustomErrors::well_known();
    let encoded = |selector: &str, words: &[B256], tail: &[u8]| {
        [&keccak256(selector)[..4], &data(words), tail].concat()
    };
    let mut padded = b"too late".to_vec();
    padded.resize(32, 0);
    for (bytes, expected) in [
        (
            encoded("Error(string)", &[word(32), word(8)], &padded),
            "too late",
        ),
        (
            encoded("Error(string)", &[word(32), word(800)], &padded),
            "reverted with a text that is cut off",
        ),
        (
            encoded("Error(string)", &[word(32), word(0)], &[]),
            "reverted with an empty reason",
        ),
        (
            encoded("Panic(uint256)", &[word(0x11)], &[]),
            "panic 0x11: arithmetic overflow or underflow",
        ),
        (
            encoded(
                "ERC20InsufficientBalance(address,uint256,uint256)",
                &[account(1).into_word(), word(5), word(6)],
                &[],
            ),
            "ERC20InsufficientBalance(sender: 0x0000000000000000000000000000000000000001, balance: 5, needed: 6)",
        ),
        (encoded("EnforcedPause()", &[], &[]), "EnforcedPause()"),
        (vec![1, 2, 3, 4, 5], "custom error 0x01020304"),
        (vec![1, 2], "reverted with 0x0102"),
        (vec![], "reverted without a reason"),
    ] {
        assert_eq!(revert_reason(&bytes, &errors), expected);
    }
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    let long = "a\nb".repeat(1_000);
    let bytes = [
        &keccak256("Error(string)")[..4],
        &data(&[word(32), word(long.len() as u64)]),
        long.as_bytes(),
    ]
    .concat();
    let reason = revert_reason(&bytes, &CustomErrors::default());
    assert_eq!(reason.chars().count(), 501);
    assert!(reason.starts_with("a ba b"));
}

#[test]
fn a_configured_error_is_decoded() {
    let mut errors = CustomErrors::default();
    errors
        .add("error TooLow(uint256 bid, (address who, string note) last)")
        .unwrap();
    let mut bytes = keccak256("TooLow(uint256,(address,string))")[..4].to_vec();
    bytes.extend(data(&[
        word(3),
        word(64),
        account(9).into_word(),
        word(64),
        word(2),
    ]));
    bytes.extend(*b"hi");
    bytes.extend([0; 30]);
    assert_eq!(
        revert_reason(&bytes, &errors),
        r#"TooLow(bid: 3, last: {"who":"0x0000000000000000000000000000000000000009","note":"hi"})"#
    );
    let refused = errors.add("error Oops(uint7 x)").unwrap_err().to_string();
    assert!(refused.contains("uint7"), "{refused}");
}

proptest! {
    /// Any log is decoded or refused.
    #[test]
    fn no_log_makes_the_decoder_panic(
        signature in 0..8_usize,
        words in prop::collection::vec(prop_oneof![0..300_u64, Just(u64::MAX)], 0..12),
        indexed in 0..5_usize,
        cut in 0..64_usize,
        permit2: bool,
    ) {
        let signature = [
            TRANSFER,
            APPROVAL,
            BATCH,
            "TransferSingle(address,address,address,uint256,uint256)",
            "ApprovalForAll(address,address,bool)",
            "Deposit(address,uint256)",
            "Permit(address,address,address,uint160,uint48,uint48)",
            "Lockdown(address,address,address)",
        ][signature];
        let words: Vec<_> = words.into_iter().map(word).collect();
        let (arguments, rest) = words.split_at(indexed.min(words.len()));
        let mut bytes = data(rest);
        bytes.truncate(bytes.len().saturating_sub(cut));
        let contract = if permit2 { PERMIT2 } else { TOKEN };
        let _ = decode(contract, &topics(signature, arguments), &bytes);
    }

    /// Any revert data becomes one line of bounded length.
    #[test]
    fn no_revert_data_makes_the_decoder_panic(
        selector in 0..3_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let selector = ["Error(string)", "Panic(uint256)", "ERC721NonexistentToken(uint256)"][selector];
        let data = [&keccak256(selector)[..4], &bytes].concat();
        let reason = revert_reason(&data, &CustomErrors::well_known());
        prop_assert!(!reason.contains('\n') && reason.chars().count() <= 501);
    }
}
