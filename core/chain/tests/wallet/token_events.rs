//! Token events: NFT transfers and approvals.

use alloy::primitives::{Address, U256};
use tidewire_chain::wallet::{Tracing, WalletTracker};
use tidewire_proto::v1::{approval::Allowance, wallet_update::Data};

use crate::{
    apply, index, log,
    scripted::Scripted,
    support::{CHAIN, Node, account},
    transfer,
};

#[tokio::test]
async fn nft_transfers_and_approvals_are_sent_and_an_unindexed_id_is_no_amount() {
    let (nft, many, token) = (account(0xAA), account(0xAB), account(0xAC));
    let wallets = index(&[account(1)]);
    let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
    let me = account(1).into_word();
    let other = account(2).into_word();
    let huge = U256::MAX - U256::ONE;
    let word = U256::from::<u64>;
    let batch = "TransferBatch(address,address,address,uint256[],uint256[])";
    let ends = [other, other, me];
    let update = Node::default().mine_logs(vec![
        log(
            nft,
            "Transfer(address,address,uint256)",
            &[other, me, huge.into()],
            &[],
        ),
        transfer(nft, account(2), account(1), 77),
        log(many, batch, &ends, &[64, 160, 2, 1, 2, 2, 5, 6].map(word)),
        log(many, batch, &ends, &[64, 96, 0, 0].map(word)),
        // A log without its data.
        log(
            token,
            "Approval(address,address,uint256)",
            &[me, other],
            &[],
        ),
        log(
            token,
            "Approval(address,address,uint256)",
            &[me, other],
            &[U256::MAX],
        ),
        log(
            many,
            "ApprovalForAll(address,address,bool)",
            &[me, other],
            &[U256::ONE],
        ),
    ]);
    let client = Scripted {
        nfts: vec![nft],
        has_multicall: true,
        ..Scripted::default()
    };
    let sent = apply(&mut tracker, &update, &wallets, &client).await;
    let sent: Vec<_> = sent.into_iter().filter_map(|update| update.data).collect();
    let ids = sent.iter().filter_map(|data| match data {
        Data::Nft(nft) => Some((nft.token_id.clone(), nft.amount.clone())),
        _ => None,
    });
    let ids: Vec<_> = ids.collect();
    let pair = |id: &str, amount: &str| (id.to_owned(), amount.to_owned());
    assert_eq!(
        ids,
        [
            pair(&huge.to_string(), "1"),
            pair("77", "1"),
            pair("1", "5"),
        ]
    );
    // From whom to whom, and in which contract.
    let text = |address: Address| format!("{address:?}");
    for (data, contract) in sent.iter().zip([nft, nft, many]) {
        let Data::Nft(nft) = data else {
            panic!("{data:?}");
        };
        assert_eq!(
            (&nft.from, &nft.to, &nft.contract),
            (&text(account(2)), &text(account(1)), &text(contract))
        );
    }
    let items = sent.iter().find_map(|data| match data {
        Data::Nft(nft) if nft.standard == "erc1155" => Some(nft.items.clone()),
        _ => None,
    });
    let items = items.unwrap().into_iter();
    let items: Vec<_> = items.map(|item| (item.token_id, item.amount)).collect();
    assert_eq!(items, [pair("1", "5"), pair("2", "6")]);
    let approvals: Vec<_> = sent
        .into_iter()
        .filter_map(|data| match data {
            Data::Approval(approval) => Some(approval),
            _ => None,
        })
        .collect();
    assert_eq!(approvals.len(), 2);
    assert!(approvals.iter().all(|approval| approval.unlimited));
    assert_eq!(approvals[1].allowance, Some(Allowance::ApprovedAll(true)));
}

#[tokio::test]
async fn a_batch_of_many_ids_is_a_bounded_number_of_updates() {
    let wallets = index(&[account(1)]);
    for (count, pages, left_out) in [(1_u64, 1, None), (2, 1, None), (3_000, 4, Some(1_976))] {
        let numbers = |from: u64| (0..count).map(move |id| U256::from(from + id));
        let data: Vec<_> = [64, 96 + 32 * count, count]
            .map(U256::from)
            .into_iter()
            .chain(numbers(10))
            .chain([U256::from(count)])
            .chain(numbers(20))
            .collect();
        let [me, other] = [account(1).into_word(), account(2).into_word()];
        let batch = "TransferBatch(address,address,address,uint256[],uint256[])";
        let spam = log(account(0xAB), batch, &[other, other, me], &data);
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let update = Node::default().mine_logs(vec![spam]);
        let sent = apply(&mut tracker, &update, &wallets, &Scripted::default()).await;
        let moved: Vec<_> = sent
            .into_iter()
            .map(|update| match update.data {
                Some(Data::Nft(nft)) => nft,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(moved.len(), pages, "{count} ids");
        assert_eq!(
            (moved[0].token_id.as_str(), moved[0].amount.as_str()),
            ("10", "20")
        );
        let listed: usize = moved.iter().map(|nft| nft.items.len()).sum();
        assert_eq!(
            listed,
            if count == 1 {
                0
            } else {
                count.min(1_024) as usize
            }
        );
        assert_eq!(moved[pages - 1].left_out, left_out);
    }
}

#[tokio::test]
async fn an_approval_is_judged_by_its_contract_and_by_the_supply() {
    let (token, nft) = (account(0xAC), account(0xAA));
    let wallets = index(&[account(1)]);
    let [me, other] = [account(1).into_word(), account(2).into_word()];
    let approval = |contract: Address, value: U256| {
        log(
            contract,
            "Approval(address,address,uint256)",
            &[me, other],
            &[value],
        )
    };
    let number = U256::from::<u64>;
    let cases = [
        (approval(nft, number(77)), false, "erc721"),
        (approval(token, number(100)), false, "erc20"),
        (approval(token, number(101)), true, "erc20"),
        (approval(token, U256::ONE << 255), true, "erc20"),
    ];
    for (approval, unlimited, standard) in cases {
        let mut tracker = WalletTracker::new(CHAIN, Tracing::Off);
        let client = Scripted {
            nfts: vec![nft],
            supply: Some(100),
            has_multicall: true,
            ..Scripted::default()
        };
        let update = Node::default().mine_logs(vec![approval]);
        let sent = apply(&mut tracker, &update, &wallets, &client).await;
        let Some(Data::Approval(approval)) = &sent[0].data else {
            panic!("{sent:?}");
        };
        assert_eq!(
            (approval.unlimited, approval.standard.as_str()),
            (unlimited, standard)
        );
        let is_id = matches!(approval.allowance, Some(Allowance::TokenId(_)));
        assert_eq!(is_id, standard == "erc721");
    }
}
