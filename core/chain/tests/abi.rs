//! Tests of the ABI decoder: refused signatures, and the JSON form of every type.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use alloy::{
    dyn_abi::{DynSolType, DynSolValue},
    primitives::{Address, B256, I256, U256, keccak256},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidewire_chain::abi::{EventAbi, EventAbis};

fn decode(signature: &str, indexed: &[B256], data: &[u8]) -> Option<Value> {
    let event = EventAbi::parse(signature).unwrap();
    let mut topics = vec![event.topic()];
    topics.extend_from_slice(indexed);
    let decoded = event.decode(&topics, data)?;
    Some(serde_json::from_str(&decoded).unwrap())
}

#[test]
fn a_transfer_decodes_to_an_object_in_signature_order() {
    let event =
        EventAbi::parse("event Transfer(address indexed from, address indexed to, uint256 value);")
            .unwrap();
    let to = Address::repeat_byte(0xAB);
    let topics = [
        event.topic(),
        Address::with_last_byte(1).into_word(),
        to.into_word(),
    ];
    let data = U256::MAX.to_be_bytes::<32>();
    assert_eq!(
        event.decode(&topics, &data).unwrap(),
        format!(
            r#"{{"from":"0x0000000000000000000000000000000000000001","to":"{to:?}","value":"{}"}}"#,
            U256::MAX
        )
    );
    // One topic or one byte of data is missing.
    assert_eq!(event.decode(&topics[..2], &data), None);
    assert_eq!(event.decode(&topics, &data[..31]), None);
    assert_eq!(
        event.signature(),
        EventAbi::parse("Transfer(address  indexed from,address indexed to,uint value)")
            .unwrap()
            .signature()
    );
}

#[test]
fn every_type_has_a_json_form() {
    let data = DynSolValue::Tuple(vec![
        DynSolValue::Int(I256::MINUS_ONE, 8),
        DynSolValue::Bool(true),
        DynSolValue::FixedBytes(B256::right_padding_from(&[0xBE, 0xEF]), 2),
        DynSolValue::Bytes(vec![1, 2]),
        DynSolValue::String("a \"b\"\n".to_owned()),
        DynSolValue::Array(vec![
            DynSolValue::Tuple(vec![
                DynSolValue::Uint(U256::from(1), 256),
                DynSolValue::String("x".to_owned()),
            ]),
            DynSolValue::Tuple(vec![
                DynSolValue::Uint(U256::from(2), 256),
                DynSolValue::String("y".to_owned()),
            ]),
        ]),
        DynSolValue::FixedArray(vec![
            DynSolValue::Tuple(vec![DynSolValue::Bool(false), DynSolValue::Bool(true)]),
            DynSolValue::Tuple(vec![DynSolValue::Bool(true), DynSolValue::Bool(false)]),
        ]),
    ])
    .abi_encode_params();
    let signature = "event All(int8 small, bool, bytes2 two, bytes raw, string text, \
                     (uint256 id, string name)[] items, (bool, bool)[2] flags)";
    assert_eq!(
        decode(signature, &[], &data).unwrap(),
        json!({
            "small": "-1",
            "1": true,
            "two": "0xbeef",
            "raw": "0x0102",
            "text": "a \"b\"\n",
            "items": [{"id": "1", "name": "x"}, {"id": "2", "name": "y"}],
            "flags": [[false, true], [true, false]],
        })
    );
}

#[test]
fn an_indexed_argument_longer_than_a_word_decodes_to_its_hash() {
    let hash = keccak256("hello");
    let decoded = decode(
        "event Named(string indexed name, uint256[] indexed ids, int64 indexed delta)",
        &[hash, hash, I256::MINUS_ONE.into_raw().into()],
        &[],
    );
    assert_eq!(
        decoded.unwrap(),
        json!({"name": hash.to_string(), "ids": hash.to_string(), "delta": "-1"})
    );
}

#[test]
fn a_value_out_of_its_types_range_is_refused() {
    for (kind, word) in [
        ("bool", U256::from(2)),
        ("uint8", U256::from(256)),
        ("int8", U256::from(128)),
        ("address", U256::MAX),
        ("bytes4", U256::ONE),
    ] {
        let signature = format!("E({kind} x)");
        assert_eq!(
            decode(&signature, &[], &word.to_be_bytes::<32>()),
            None,
            "{kind}"
        );
    }
}

#[test]
fn the_error_for_a_bad_signature_names_the_reason() {
    for (signature, expected) in [
        ("", "is not understood"),
        ("Transfer(address from", "is not understood"),
        (
            "function transfer(address to)",
            "expected for example \"event Transfer(",
        ),
        ("event E(uint7 x)", "type uint7 of E is not supported"),
        ("event E(Thing x)", "type Thing of E is not supported"),
        ("event E(uint256[0] x)", "number would be zero"),
        (
            "event E(uint256[100][100] x)",
            "a fixed list holds 10000 values, expected 1 to 1024",
        ),
        (
            "event E(uint256[][][][][][][][][] x)",
            "nested more than 8 deep",
        ),
        ("event E(() x)", "E"),
        ("event E(uint256 a, uint256 a)", "two arguments named \"a\""),
        ("event E(uint256 a) anonymous", "anonymous"),
        (
            "event E(bool indexed a, bool indexed b, bool indexed c, bool indexed d)",
            "has 4 indexed arguments, expected at most 3",
        ),
    ] {
        let error = EventAbi::parse(signature).unwrap_err().to_string();
        assert!(error.contains(expected), "{signature}: {error}");
    }
    let deep = format!("E({}uint256 x{})", "(".repeat(400), ")".repeat(400));
    let error = EventAbi::parse(&deep).unwrap_err().to_string();
    assert!(error.contains("nested more than 8 deep"), "{error}");
    let long = format!("E({})", "uint256,".repeat(1_000));
    let error = EventAbi::parse(&long).unwrap_err().to_string();
    assert!(error.contains("expected at most 1024"), "{error}");
}

#[test]
fn events_of_one_name_are_distinguished_by_their_indexed_arguments() {
    let abis = EventAbis::parse(&[
        "event Transfer(address indexed from, address indexed to, uint256 indexed id)".to_owned(),
        "event Transfer(address indexed from, address indexed to, uint256 value)".to_owned(),
        "Transfer(address indexed from,address indexed to,uint256 value)".to_owned(),
    ])
    .unwrap();
    assert_eq!(abis.events().len(), 2);
    let who = Address::with_last_byte(1).into_word();
    let mut topics = vec![abis.events()[0].topic(), who, who];
    let data = U256::from(5).to_be_bytes::<32>();
    let (_, args) = abis.decode(&topics, &data).unwrap();
    assert!(args.ends_with(r#""value":"5"}"#), "{args}");
    topics.push(data.into());
    let (name, args) = abis.decode(&topics, &[]).unwrap();
    assert!(
        name == "Transfer" && args.ends_with(r#""id":"5"}"#),
        "{args}"
    );
}

/// Nested lists that share one tail: 1,000 words claim to be a billion values.
#[test]
fn data_that_unfolds_beyond_the_visit_budget_is_refused() {
    const WIDTH: usize = 1_000;
    let mut data = vec![U256::from(32), U256::from(WIDTH)];
    // Each item is an offset to a list of offsets, which is the same list.
    data.extend(std::iter::repeat_n(U256::ZERO, WIDTH));
    let mut bytes: Vec<u8> = data
        .iter()
        .flat_map(|word| word.to_be_bytes::<32>())
        .collect();
    // The first item's offset points at its own frame, whose first word is its length.
    for item in 0..WIDTH {
        let at = 64 + item * 32;
        bytes[at..at + 32].copy_from_slice(&U256::from(WIDTH * 32).to_be_bytes::<32>());
    }
    bytes.extend(U256::from(WIDTH).to_be_bytes::<32>());
    bytes.extend(std::iter::repeat_n(0_u8, WIDTH * 32));
    assert_eq!(decode("E(uint256[][][] x)", &[], &bytes), None);
}

/// A type and a value in its range.
fn typed() -> impl Strategy<Value = (String, DynSolValue)> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(|n| ("uint64".to_owned(), DynSolValue::Uint(U256::from(n), 64))),
        any::<i64>().prop_map(|n| (
            "int128".to_owned(),
            DynSolValue::Int(I256::try_from(n).unwrap(), 128)
        )),
        any::<bool>().prop_map(|b| ("bool".to_owned(), DynSolValue::Bool(b))),
        any::<[u8; 20]>().prop_map(|a| ("address".to_owned(), DynSolValue::Address(a.into()))),
        ".{0,40}".prop_map(|s| ("string".to_owned(), DynSolValue::String(s))),
        prop::collection::vec(any::<u8>(), 0..70)
            .prop_map(|b| ("bytes".to_owned(), DynSolValue::Bytes(b))),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0..4_usize).prop_map(|((kind, value), n)| (
                format!("{kind}[]"),
                DynSolValue::Array(vec![value; n])
            )),
            (inner.clone(), 1..4_usize).prop_map(|((kind, value), n)| (
                format!("{kind}[{n}]"),
                DynSolValue::FixedArray(vec![value; n])
            )),
            prop::collection::vec(inner, 1..4).prop_map(|parts| {
                let (kinds, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                (format!("({})", kinds.join(",")), DynSolValue::Tuple(values))
            }),
        ]
    })
}

/// The expected JSON of a value.
fn expected(value: &DynSolValue) -> Value {
    match value {
        DynSolValue::Uint(n, _) => json!(n.to_string()),
        DynSolValue::Int(n, _) => json!(n.to_string()),
        DynSolValue::Bool(b) => json!(b),
        DynSolValue::Address(a) => json!(format!("{a:?}").to_lowercase()),
        DynSolValue::String(s) => json!(s),
        DynSolValue::Bytes(b) => json!(alloy::hex::encode_prefixed(b)),
        DynSolValue::Array(items) | DynSolValue::FixedArray(items) | DynSolValue::Tuple(items) => {
            items.iter().map(expected).collect()
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Values that alloy encodes decode to themselves.
    #[test]
    fn encoded_values_decode_to_themselves(parts in prop::collection::vec(typed(), 1..4)) {
        let (kinds, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        for kind in &kinds {
            prop_assume!(kind.parse::<DynSolType>().is_ok());
        }
        let data = DynSolValue::Tuple(values.clone()).abi_encode_params();
        let decoded = decode(&format!("E({})", kinds.join(",")), &[], &data).unwrap();
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(&decoded[index.to_string()], &expected(value));
        }
    }

    /// Any data is decoded or refused.
    #[test]
    fn no_data_makes_the_decoder_panic(
        words in prop::collection::vec(prop_oneof![0..400_u64, Just(u64::MAX)], 0..40),
        cut in 0..32_usize,
    ) {
        let mut data: Vec<u8> = words.iter().flat_map(|n| U256::from(*n).to_be_bytes::<32>()).collect();
        data.truncate(data.len().saturating_sub(cut));
        for signature in ["E(uint256[][] x, string y)", "E((bytes,(string,bool)[])[2] x)", "E(bytes[] x)"] {
            let _ = decode(signature, &[], &data);
        }
    }
}
