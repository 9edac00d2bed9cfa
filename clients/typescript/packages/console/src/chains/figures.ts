/**
 * Figures of chains: heads, reorgs and the health of endpoints, from the text of `/metrics`, and the
 * list of chains from `/readyz?verbose`.
 */
import type { Tone } from "../ui/chip.tsx";

/** An endpoint of a chain. */
export interface Endpoint {
  /** Scheme and host. */
  readonly url: string;
  /** The height of its head. */
  readonly head: number | undefined;
  /** The share of its calls that succeeded, from 0 to 1. */
  readonly score: number | undefined;
  readonly calls: number;
  readonly failures: number;
  /** Responses that passed no proof. */
  readonly lies: number;
  /** Times that it limited the rate. */
  readonly limits: number;
  /** The median duration of a call, in seconds. */
  readonly callSeconds: number | undefined;
}

/** What `/metrics` says of a chain. */
export interface ChainFigures {
  readonly reorgs: number;
  readonly resyncs: number;
  readonly endpoints: readonly Endpoint[];
}

/** The part of a chain in `/readyz?verbose`. */
export interface ChainPart {
  readonly chain: number;
  /** Why it stands still. */
  readonly fault: string | undefined;
}

type Labels = Readonly<Record<string, string>>;

/** Reads the text format of Prometheus. Calls `take` for each sample of a chain. */
function eachSample(text: string, take: (name: string, labels: Labels, value: number) => void): void {
  for (const [, name = "", list = "", value = ""] of text.matchAll(/^tidewire_chain_(\w+)\{(.*)\} (\S+)$/gm)) {
    const labels: Record<string, string> = {};
    for (const [, key = "", quoted = ""] of list.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[key] = quoted.replaceAll(/\\(.)/g, "$1");
    }
    take(name, labels, Number(value));
  }
}

/** Returns the figures of each chain. */
export function chainFigures(text: string): ReadonlyMap<number, ChainFigures> {
  const chains = new Map<number, { values: Map<string, number>; endpoints: Map<string, Map<string, number>> }>();
  eachSample(text, (name, { chain, endpoint, quantile }, value) => {
    const id = Number(chain);
    const entry = chains.get(id) ?? { values: new Map<string, number>(), endpoints: new Map<string, Map<string, number>>() };
    chains.set(id, entry);
    const key = quantile === undefined ? name : `${name} ${quantile}`;
    if (endpoint === undefined) {
      entry.values.set(key, value);
    } else {
      const values = entry.endpoints.get(endpoint) ?? new Map<string, number>();
      entry.endpoints.set(endpoint, values.set(key, value));
    }
  });
  return new Map(
    [...chains].map(([id, { values, endpoints }]) => [
      id,
      {
        reorgs: values.get("reorgs_total") ?? 0,
        resyncs: values.get("resyncs_total") ?? 0,
        endpoints: [...endpoints].map(([url, own]) => ({
          url,
          head: own.get("endpoint_head"),
          score: own.get("endpoint_score"),
          calls: own.get("calls_total") ?? 0,
          failures: own.get("call_failures_total") ?? 0,
          lies: own.get("lies_total") ?? 0,
          limits: own.get("limits_total") ?? 0,
          callSeconds: own.get("call_seconds 0.5"),
        })),
      },
    ]),
  );
}

/** The health of an endpoint in a word, with what it means. */
export function endpointState({ head, score, lies }: Endpoint, chainHead: number | undefined): { readonly word: string; readonly tone: Tone } {
  if (lies > 0) {
    return { word: "failed a proof", tone: "bad" };
  }
  if (score !== undefined && score < 0.5) {
    return { word: "down", tone: "bad" };
  }
  const behind = head === undefined || chainHead === undefined ? 0 : chainHead - head;
  if (behind > 2) {
    return { word: "behind", tone: "warn" };
  }
  return score !== undefined && score < 0.95 ? { word: "unsteady", tone: "warn" } : { word: "healthy", tone: "up" };
}

/** Returns the chains that the server follows, from the body of `/readyz?verbose`. */
export function chainParts(body: unknown): readonly ChainPart[] {
  const parts = (body as { readonly parts?: readonly { readonly part: string; readonly state: string; readonly reason?: string }[] } | null)?.parts ?? [];
  return parts.flatMap(({ part, state, reason }) => {
    const id = /^chain (\d+)$/.exec(part)?.[1];
    return id === undefined ? [] : [{ chain: Number(id), fault: state === "ok" ? undefined : (reason ?? state) }];
  });
}

/** Names of chains, and their coin where it is not ETH. */
const NAMES: Readonly<Record<number, string>> = {
  1: "Ethereum", 10: "OP Mainnet", 56: "BNB Smart Chain/BNB", 100: "Gnosis/xDAI", 130: "Unichain", 137: "Polygon/POL", 324: "zkSync Era", 480: "World Chain", 5000: "Mantle/MNT",
  7357: "Sample chain/TIDE", 8453: "Base", 42161: "Arbitrum One", 42220: "Celo/CELO", 43114: "Avalanche/AVAX", 57073: "Ink", 59144: "Linea", 80094: "Berachain/BERA", 81457: "Blast", 534352: "Scroll",
};

/** The name of a chain, or its id in words. */
export function chainName(chain: number): string {
  return NAMES[chain]?.split("/")[0] ?? `Chain ${chain}`;
}

/** The unit of a chain's coin. It is `coins` where the page does not know it. */
export function coinName(chain: number): string {
  const name = NAMES[chain];
  return name === undefined ? "coins" : (name.split("/")[1] ?? "ETH");
}
