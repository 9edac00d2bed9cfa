/** Chains: blocks, transactions, wallets, contract events. Amounts are decimal strings. */
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
  /** The blocks that this one's branch replaced, newest first. */
  readonly reorged?: readonly string[];
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
  /** A reorg took it back. */
  readonly removed: boolean;
}

/** The life of a transaction. */
export type TransactionState = Open<
  "unknown" | "pending" | "confirming" | "confirmed" | "finalized" | "failed" | "replaced" | "cancelled" | "dropped"
>;

/** The state of a transaction. */
export interface TransactionStatus {
  readonly chain: number;
  readonly hash: string;
  readonly state: TransactionState;
  /** The block that includes it is the first. */
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
  /** Since when it is looked for, of what is unknown. */
  readonly since?: Millis;
}

/** Watch a transaction, or contract events. */
export interface WatchRequest {
  readonly chain: number;
  readonly txHash?: string;
  readonly events?: EventFilter;
  /** Human-readable signatures of errors to say by why the transaction failed. */
  readonly abi?: readonly string[];
}

/** Which events of which contracts. */
export interface EventFilter {
  readonly addresses: readonly string[];
  readonly topics?: readonly string[];
  /** Human-readable signatures to decode by. */
  readonly abi?: readonly string[];
}

/** What is watched: the transaction's state now, or the channel that the events come on. */
export type Watching = TransactionStatus | { readonly channel: string };

/** A balance changed. */
export interface BalanceChange {
  readonly token?: string;
  readonly symbol?: string;
  readonly decimals?: number;
  readonly previous?: string;
  readonly current: string;
  readonly delta: string;
  readonly blockNumber: number;
  readonly how: Open<"balance" | "trace">;
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
  /** What took its place. */
  readonly replacedBy?: string;
}

/** A right to spend was given or taken. */
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

/** An NFT moved. */
export interface NftTransfer {
  readonly contract: string;
  readonly standard: string;
  readonly tokenId: string;
  readonly amount: string;
  readonly from: string;
  readonly to: string;
  readonly txHash: string;
  readonly blockNumber: number;
}

interface WalletUpdateOf<Type extends string, Data> {
  readonly type: Type;
  readonly address: string;
  readonly chain: number;
  readonly timestamp: Millis;
  readonly data: Data;
  /** A reorg took it back. */
  readonly removed?: boolean;
}

/** Something happened to a wallet. */
export type WalletUpdate =
  | WalletUpdateOf<"balance", BalanceChange>
  | WalletUpdateOf<"transaction", WalletTransaction>
  | WalletUpdateOf<"approval", Approval>
  | WalletUpdateOf<"nft", NftTransfer>;
