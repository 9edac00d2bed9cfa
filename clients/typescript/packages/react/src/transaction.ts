/** Transaction hook: the state of a transaction on its way into a final block. */
import type { TidewireError, TransactionStatus, Watching } from "@tidewire/client";
import { useMemo } from "react";
import { follow } from "./follow.ts";
import type { Source } from "./session.ts";
import { useValue, type Value, valueSource } from "./value.ts";

/** The state of a transaction. */
export interface Transaction {
  readonly transaction: TransactionStatus | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Reads the transaction's state from the chain, and follows its channel. */
function transactionSource(txHash: string, chain: number): Source<Value<TransactionStatus>> {
  const channel = `tx:${chain}:${txHash.toLowerCase()}`;
  return valueSource(channel, (client, set) => {
    let newest = 0;
    const put = (status: Watching): void => {
      // A reply and a push may overtake each other.
      if ("timestamp" in status && status.timestamp >= newest) {
        newest = status.timestamp;
        set(status);
      } else {
        set();
      }
    };
    return follow(client, {
      _channel: channel,
      _load: () => client.request("watch", { chain, txHash }),
      _onPage: put,
      onError: (error) => {
        set(undefined, error);
      },
      _onMessage: (message) => {
        if (message.type === "transaction") {
          put(message.data);
        }
        return true;
      },
    });
  });
}

/** Follows a transaction. Without a `hash` it waits for one. */
export function useTransaction(hash: string | undefined, chain: number): Transaction {
  const { data: transaction, loading, error } = useValue(useMemo(() => (hash ? [transactionSource(hash, chain)] : []), [hash, chain]));
  return { transaction, loading, error };
}
