/** Chain messages: blocks, transactions, wallets, contract events. Amounts are decimal strings. */
import type { Json, Millis, Open } from "./common.ts";

/** A block of the canonical chain. */
export interface Block {
  readonly chain: number;
  readonly number: number;
  readonly hash: string;
  readonly parentHash: string;
  readonly timestamp: Millis;
  readonly transactions: number;
  readonly baseFeePerGas?: string;
  /** The blocks that this block's branch replaced, newest first. */
  readonly reorged?: readonly string[];
  /** Made from sample data: nothing of it exists. */
  readonly sample?: boolean;
}

/** A log of a contract. */
export interface EventLog {
  readonly chain: number;
  readonly address: string;
  readonly event?: string;
  readonly args?: Json;
  readonly topics: readonly string[];
  readonly data: string;
  readonly blockNumber: number;
  readonly blockHash: string;
  readonly txHash: string;
  readonly logIndex: number;
  /** A reorg removed it. */
  readonly removed: boolean;
  /** Made from sample data: nothing of it exists. */
  readonly sample?: boolean;
}

/** The state of a transaction in its life cycle. */
export type TransactionState = Open<
  "unknown" | "pending" | "confirming" | "confirmed" | "finalized" | "failed" | "replaced" | "cancelled" | "dropped"
>;

/** The status of a transaction. */
export interface TransactionStatus {
  readonly chain: number;
  readonly hash: string;
  readonly state: TransactionState;
  /** The number of confirmations. The block that includes it is the first. */
  readonly confirmations: number;
  readonly required: number;
  readonly from?: string;
  readonly nonce?: number;
  readonly blockNumber?: number;
  readonly blockHash?: string;
  readonly gasUsed?: number;
  readonly effectiveGasPrice?: string;
  readonly replacedBy?: string;
  readonly reason?: string;
  readonly reorged?: boolean;
  readonly timestamp: Millis;
  /** While `unknown`: the time since which the server searches for it. */
  readonly since?: Millis;
  /** Made from sample data: nothing of it exists. */
  readonly sample?: boolean;
}

/** A request to watch a transaction or contract events. */
export interface WatchRequest {
  readonly chain: number;
  readonly txHash?: string;
  readonly events?: EventFilter;
  /** Human-readable error signatures to decode the reason of a failure. */
  readonly abi?: readonly string[];
}

/** A filter for contract events. */
export interface EventFilter {
  readonly addresses: readonly string[];
  readonly topics?: readonly string[];
  /** Human-readable event signatures to decode the logs. */
  readonly abi?: readonly string[];
}

/** The transaction's status now, or the channel of the events. */
export type Watching = TransactionStatus | { readonly channel: string };

/** A change of a balance. */
export interface BalanceChange {
  readonly token?: string;
  readonly symbol?: string;
  readonly decimals?: number;
  readonly previous?: string;
  readonly current: string;
  readonly delta: string;
  readonly blockNumber: number;
  readonly how: Open<"balance" | "trace" | "withdrawal">;
}

/** A transaction from or to a wallet. */
export interface WalletTransaction {
  readonly hash: string;
  readonly from: string;
  /** `null` when it creates a contract. */
  readonly to: string | null;
  readonly value: string;
  readonly direction: Open<"in" | "out" | "self">;
  readonly status: TransactionState;
  readonly blockNumber?: number;
  /** The transaction that replaced it. */
  readonly replacedBy?: string;
}

/** A grant or revocation of a spending right. */
export interface Approval {
  readonly token: string;
  readonly owner: string;
  readonly spender: string;
  readonly amount?: string;
  readonly tokenId?: string;
  readonly approvedAll?: boolean;
  readonly unlimited: boolean;
  readonly standard: string;
  readonly txHash: string;
  readonly blockNumber: number;
}

/** A transfer of an NFT. */
export interface NftTransfer {
  readonly contract: string;
  readonly standard: string;
  readonly tokenId: string;
  readonly amount: string;
  readonly from: string;
  readonly to: string;
  readonly txHash: string;
  readonly blockNumber: number;
  /** The ids and amounts of a batch. `tokenId` and `amount` are those of its first one. */
  readonly items?: readonly NftItem[];
  /** Number of ids of the batch that are left out, on its last update. */
  readonly leftOut?: number;
}

/** One id of a batch. */
export interface NftItem {
  readonly tokenId: string;
  readonly amount: string;
}

interface WalletUpdateOf<Type extends string, Data> {
  readonly type: Type;
  readonly address: string;
  readonly chain: number;
  readonly timestamp: Millis;
  readonly data: Data;
  /** A reorg removed it. */
  readonly removed?: boolean;
  /** Why the change may be an attempt to mislead the wallet's owner. */
  readonly suspicious?: string;
  /** Made from sample data: nothing of it exists. */
  readonly sample?: boolean;
}

/** An update of a wallet. */
export type WalletUpdate =
  | WalletUpdateOf<"balance", BalanceChange>
  | WalletUpdateOf<"transaction", WalletTransaction>
  | WalletUpdateOf<"approval", Approval>
  | WalletUpdateOf<"nft", NftTransfer>;
