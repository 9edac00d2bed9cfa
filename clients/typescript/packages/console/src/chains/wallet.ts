/** Wallet feed: the updates of a wallet in words, each with its newest state. */
import type { WalletUpdate } from "@tidewire/client";
import type { FeedItem } from "../feed.ts";
import type { Tone } from "../ui/chip.tsx";
import { coinName } from "./figures.ts";
import { short, stateText } from "./transaction.ts";

/** A line of the feed. */
export interface WalletLine {
  readonly key: string;
  /** What happened, such as `Received`. */
  readonly what: string;
  /** The amount with its sign and unit, or the tokens. */
  readonly amount: string;
  /** The other party, or how it happened. */
  readonly detail: string;
  readonly tone: Tone;
  /** The state of a transaction in a word. */
  readonly state: string;
  readonly chain: number;
  readonly timestamp: number;
  /** The transaction, to track it. */
  readonly hash: string | undefined;
  readonly suspicious: string | undefined;
  /** A reorg took it back. */
  readonly removed: boolean;
}

/** Digits after the point that are shown of an amount. */
const SHOWN_DIGITS = 6;

/**
 * Formats an amount of the smallest unit: `1940000000000000000` with 18 decimals is `1.94`. No digit is
 * lost before the point; a fraction is cut, and an amount too small to be shown is `< 0.000001`.
 */
export function units(amount: string, decimals: number): string {
  const sign = amount.startsWith("-") ? "−" : "";
  const digits = amount.replace(/^[-+]/, "").padStart(decimals + 1, "0");
  const whole = digits.slice(0, digits.length - decimals).replace(/\B(?=(\d{3})+$)/g, ",");
  const fraction = digits.slice(digits.length - decimals).slice(0, SHOWN_DIGITS).replace(/0+$/, "");
  if (whole === "0" && fraction === "") {
    return /[1-9]/.test(digits) ? `${sign}< 0.${"0".repeat(SHOWN_DIGITS - 1)}1` : "0";
  }
  return `${sign}${whole}${fraction === "" ? "" : `.${fraction}`}`;
}

const signed = (text: string): string => (text.startsWith("−") || text === "0" ? text : `+${text}`);

/** Returns the lines of a feed, newest first: each transaction once, and without what a reorg took back before. */
export function walletLines(items: readonly FeedItem[]): readonly WalletLine[] {
  const lines = new Map<string, WalletLine>();
  for (const { type, data, timestamp } of items) {
    if (type === "wallet_update") {
      const line = lineOf(data as unknown as WalletUpdate, timestamp);
      lines.delete(line.key);
      lines.set(line.key, line);
    }
  }
  return [...lines.values()].reverse();
}

function lineOf(update: WalletUpdate, timestamp: number): WalletLine {
  const { type, chain, data, suspicious, removed = false } = update;
  const meta = { chain, timestamp, suspicious, removed, hash: undefined, state: "", tone: "plain" as Tone };
  switch (type) {
    case "transaction": {
      const { hash, from, to, value, direction, status, replacedBy } = data;
      const what = { in: "Receives", out: "Sends", self: "Pays itself" }[direction as string] ?? direction;
      const party = direction === "in" ? `from ${short(from)}` : to === null ? "creates a contract" : `to ${short(to)}`;
      const { word, tone } = stateText(status);
      const detail = replacedBy === undefined ? party : `${party} · replaced by ${short(replacedBy)}`;
      return { ...meta, key: `t${chain}${hash}`, what, amount: `${units(value, 18)} ${coinName(chain)}`, detail, hash, state: word, tone };
    }
    case "balance": {
      const { token, symbol, decimals, delta, current, blockNumber, how } = data;
      const unit = symbol ?? (token === undefined ? coinName(chain) : short(token));
      const exponent = decimals ?? (token === undefined ? 18 : 0);
      const source = { trace: " · sent by a contract", withdrawal: " · a validator's withdrawal" }[how as string] ?? "";
      const amount = `${signed(units(delta, exponent))} ${unit}`;
      return { ...meta, key: `b${JSON.stringify([chain, data])}`, what: "Balance", amount, detail: `now ${units(current, exponent)} ${unit} · block ${blockNumber.toLocaleString("en-US")}${source}`, tone: delta.startsWith("-") ? "warn" : "up" };
    }
    case "approval": {
      const { token, spender, amount, approvedAll, unlimited, tokenId, txHash } = data;
      const limit = unlimited ? "without limit" : approvedAll === false || amount === "0" ? "revoked" : tokenId === undefined ? (amount ?? "") : `token ${tokenId}`;
      return { ...meta, key: `a${JSON.stringify([chain, data])}`, what: "Approval", amount: limit, detail: `${short(spender)} may spend ${short(token)}`, hash: txHash, tone: unlimited ? "warn" : "plain" };
    }
    case "nft": {
      const { contract, tokenId, amount, from, to, items, txHash } = data;
      const isIn = to === update.address;
      const tokens = items === undefined ? `token ${tokenId}${amount === "1" ? "" : ` × ${amount}`}` : `${items.length} tokens`;
      return { ...meta, key: `n${JSON.stringify([chain, data])}`, what: isIn ? "Receives NFT" : "Sends NFT", amount: tokens, detail: `${isIn ? `from ${short(from)}` : `to ${short(to)}`} · ${short(contract)}`, hash: txHash };
    }
  }
}
