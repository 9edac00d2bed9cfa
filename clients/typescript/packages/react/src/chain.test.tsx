import type { HistoryItem, Json, ServerMessage, TransactionStatus, WalletUpdate } from "@tidewire/client";
import type { ReactElement } from "react";
import { flushSync } from "react-dom";
import { beforeEach, describe, expect, it } from "vitest";
import { type Transaction, useTransaction, useWalletUpdates, type WalletUpdates } from "./index.ts";
import { Application, fakeTime } from "./testing/harness.tsx";

beforeEach(fakeTime);

const HASH = "0xab";
const ADDRESS = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

function status(state: string, timestamp: number): TransactionStatus {
  return { chain: 1, hash: HASH, state, confirmations: state === "pending" ? 0 : 1, required: 12, timestamp };
}

describe("useTransaction", () => {
  let last: Transaction | undefined;
  function Show({ hash }: { hash: string | undefined }): ReactElement {
    last = useTransaction(hash, 1);
    return <>{last.error?.message ?? (last.loading ? "loading" : (last.transaction?.state ?? "none"))}</>;
  }
  const push = (state: string, timestamp: number): ServerMessage => ({ type: "transaction", channel: `tx:1:${HASH}`, data: status(state, timestamp) });

  it("shows the state now, then each change, and an older one never after a newer one", async () => {
    const app = new Application();
    app.answers["watch"] = () => {
      // The push overtakes the reply.
      app.push(push("confirming", 20));
      return { type: "watching", data: status("pending", 10) };
    };
    app.render(<Show hash="0xAB" />);
    expect(app.text).toBe("loading");
    await app.welcome();
    expect(app.text).toBe("confirming");
    expect(app.channels("subscribe")).toEqual([`tx:1:${HASH}`]);
    app.push(push("finalized", 30));
    await app.idle();
    expect(app.text).toBe("finalized");
    app.unmount();
  });

  it("waits without a hash, says why a watch is refused, and reads again on the next connection", async () => {
    const app = new Application();
    app.answers["watch"] = () => ({ type: "error", data: { code: "not_found", message: "there is no chain 1" } });
    app.render(<Show hash={undefined} />);
    await app.welcome();
    expect(app.text).toBe("none");
    expect(app.sent.filter(({ type }) => type === "watch")).toEqual([]);
    app.render(<Show hash={HASH} />);
    await app.idle();
    expect(app.text).toBe("there is no chain 1");
    app.answers["watch"] = () => ({ type: "watching", data: status("pending", 10) });
    app.socket.end(1006);
    await app.environment.clock.advance(10_000);
    await app.welcome();
    expect(app.text).toBe("pending");
    app.unmount();
  });
});

describe("useWalletUpdates", () => {
  let last: WalletUpdates | undefined;
  function Show(): ReactElement {
    last = useWalletUpdates(ADDRESS.toUpperCase().replace("X", "x"));
    const { pendingTxs, recentActivity, balanceChanges } = last;
    return <>{[pendingTxs.map(({ hash }) => hash), recentActivity.map(({ type, timestamp }) => `${type}@${timestamp}`), balanceChanges.map(({ delta }) => delta)].join(" | ")}</>;
  }
  const transaction = (hash: string, state: string, timestamp: number): WalletUpdate => ({
    type: "transaction",
    address: ADDRESS,
    chain: 1,
    timestamp,
    data: { hash, from: ADDRESS, to: null, value: "1", direction: "out", status: state },
  });
  const balance = (delta: string, timestamp: number, address = ADDRESS): WalletUpdate => ({
    type: "balance",
    address,
    chain: 1,
    timestamp,
    data: { current: "5", delta, blockNumber: timestamp, how: "balance" },
  });
  const push = (seq: number, data: WalletUpdate): ServerMessage => ({ type: "wallet_update", channel: `wallet:${data.address}`, seq, data });
  const item = (seq: number, data: WalletUpdate): HistoryItem => ({ seq, type: "wallet_update", data: data as unknown as Json, timestamp: data.timestamp });

  async function wallet(history: HistoryItem[]): Promise<Application> {
    const app = new Application();
    app.answers["history"] = ({ channel }: { channel: string }) => ({ type: "history", data: { channel, epoch: "e", seq: history.length, messages: history } });
    app.render(<Show />);
    await app.welcome();
    return app;
  }

  it("has exactly the documented shape", async () => {
    const app = await wallet([]);
    expect(Object.keys(last ?? {})).toEqual(["pendingTxs", "recentActivity", "balanceChanges", "subscribe", "unsubscribe"]);
    app.unmount();
  });

  it("begins with the history, and follows a transaction from pending to its block", async () => {
    const app = await wallet([item(1, balance("-1", 10)), item(2, transaction("0x1", "pending", 11))]);
    expect(app.text).toBe("0x1 | transaction@11,balance@10 | -1");
    expect(last?.recentActivity.map(({ replayed }) => replayed)).toEqual([true, true]);
    app.push(push(2, transaction("0x1", "pending", 11)));
    app.push(push(3, transaction("0x1", "confirming", 12)));
    app.push(push(4, balance("-100000000000000000001", 12)));
    await app.idle();
    expect(app.text).toBe(" | balance@12,transaction@12,balance@10 | -100000000000000000001,-1");
    expect(last?.balanceChanges[0]).toMatchObject({ replayed: false, chain: 1, address: ADDRESS });
    app.unmount();
  });

  it("takes back what a reorg removed", async () => {
    const app = await wallet([item(1, balance("-1", 10)), item(2, balance("-2", 11))]);
    app.push(push(3, { ...balance("-2", 11), removed: true }));
    await app.idle();
    expect(app.text).toBe(" | balance@10 | -1");
    app.unmount();
  });

  it("a gap reads the history again", async () => {
    const history = [item(1, balance("-1", 10))];
    const app = await wallet(history);
    history.splice(0, 1, item(1, balance("-7", 20)));
    app.push({ type: "gap", channel: `wallet:${ADDRESS}`, data: { channel: `wallet:${ADDRESS}`, epoch: "f", seq: 1 } });
    await app.idle();
    expect(app.text).toBe(" | balance@20 | -7");
    app.unmount();
  });

  it("adds and removes addresses", async () => {
    const app = await wallet([]);
    flushSync(() => last?.subscribe("0x02"));
    await app.idle();
    app.push(push(1, balance("3", 30, "0x02")));
    await app.idle();
    expect(app.text).toBe(" | balance@30 | 3");
    flushSync(() => last?.unsubscribe("0x02"));
    expect(app.text).toBe(" |  | ");
    app.unmount();
  });

  it("keeps the newest 200 updates", async () => {
    const app = await wallet([]);
    for (let seq = 1; seq <= 300; seq += 1) {
      app.push(push(seq, balance(String(seq), seq)));
    }
    await app.idle();
    expect(last?.recentActivity).toHaveLength(200);
    expect(last?.balanceChanges[0]?.delta).toBe("300");
    app.unmount();
  });
});
