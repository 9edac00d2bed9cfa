/** Transaction hook: the state of a transaction on its way into a final block. */
import type { TidewireError, TransactionStatus } from "@tidewire/client";
import { useMemo } from "react";
import { onConnected } from "./connected.ts";
import type { Source } from "./session.ts";
import { NOTHING, useValue, type Value } from "./value.ts";

/** The state of a transaction. */
export interface Transaction {
  readonly transaction: TransactionStatus | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Follows the transaction's channel, and reads its state from the chain on every connection. */
function transactionSource(hash: string, chain: number): Source<Value<TransactionStatus>> {
  const channel = `tx:${chain}:${hash.toLowerCase()}`;
  return {
    key: channel,
    initial: NOTHING,
    start(client, live) {
      let isRunning = true;
      const onError = (error: TidewireError): void => {
        // A lost connection refuses nothing: the next one reads again.
        if (isRunning && client.state.status === "connected") {
          live.set({ ...live.next, error });
        }
      };
      const onStatus = (data: TransactionStatus): void => {
        // A reply and a push may overtake each other.
        if (isRunning && data.timestamp >= (live.next.data?.timestamp ?? 0)) {
          live.set({ data });
        }
      };
      const read = (): void => {
        client.request("watch", { chain, txHash: hash }).then((reply) => {
          if ("state" in reply) {
            onStatus(reply);
          }
        }, onError);
      };
      const unsubscribe = client.subscribe(
        channel,
        (message) => {
          if (message.type === "transaction") {
            onStatus(message.data);
          } else if (message.type === "gap") {
            read();
          }
        },
        { onError },
      );
      const end = onConnected(client, read);
      return () => {
        isRunning = false;
        unsubscribe();
        end();
      };
    },
  };
}

/** Follows a transaction. Without a `hash` it waits for one. */
export function useTransaction(hash: string | undefined, chain: number): Transaction {
  const source = useMemo(() => (hash === undefined ? undefined : transactionSource(hash, chain)), [hash, chain]);
  const { data: transaction, loading, error } = useValue(source);
  return { transaction, loading, error };
}
