/** Transaction hook: the state of a transaction on its way into a final block. */
import type { TidewireError, TransactionStatus, Watching } from "@tidewire/client";
import { useMemo } from "react";
import { stateSource, type Value } from "./follow.ts";
import type { Source } from "./live.ts";
import { useValue } from "./value.ts";

/** The state of a transaction. */
export interface Transaction {
  readonly transaction: TransactionStatus | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** A reply and a push may overtake each other. */
function newest(state: TransactionStatus | undefined, status: Watching): TransactionStatus | undefined {
  return "timestamp" in status && !(status.timestamp < (state?.timestamp ?? 0)) ? status : state;
}

/** Reads the transaction's state from the chain, and follows its channel. */
function transactionSource(txHash: string, chain: number): Source<Value<TransactionStatus | undefined>> {
  const channel = `tx:${chain}:${txHash.toLowerCase()}`;
  return stateSource<TransactionStatus | undefined, Watching>(channel, undefined, (client) => ({
    _channel: channel,
    _load: () => client.request("watch", { chain, txHash }),
    _onPage: (status, state) => newest(state, status),
    _next: (state, { type, data }) => (type === "transaction" ? newest(state, data) : state),
  }));
}

/** Follows a transaction. Without a `hash` it waits for one. */
export function useTransaction(hash: string | undefined, chain: number): Transaction {
  const { data: transaction, loading, error } = useValue(useMemo(() => (hash ? [transactionSource(hash, chain)] : []), [hash, chain]));
  return { transaction, loading, error };
}
