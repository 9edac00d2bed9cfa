/**
 * Cuts: one session of 64 KiB is cut after a number of bytes from the server,
 * half of the times silently. The client must recover without a gap and without
 * a duplicate. `TIDEWIRE_CUTS` is the distance between two offsets, or "1" for
 * each byte; the table of the times goes to the console.
 */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocketClient } from "../src/client.ts";
import { type Cut, CutProxy } from "./proxy.ts";
import { binary, RealServer, until } from "./server.ts";

const SESSION_BYTES = 64 << 10;
const STEP = Number(process.env["TIDEWIRE_CUTS"] ?? 257);
/** Sessions at once. */
const BATCH = 128;
/** Passes over the session, an odd number: each has both kinds of cuts. */
const PASSES = 9;
/** Batches between two reports: a run of each byte takes an hour or more. */
const REPORT_EVERY = 16;
/** The pace of the publications: a session is recorded in a second. After that they come more slowly, and short ones once all are cut. */
const PACE_MS = 15;
const LENGTH = 1_000;
/** Random bytes: the connections compress. */
const LONG_ONES = 72;
const SLOWER = 6;

const server = new RealServer();

interface Session {
  readonly proxy: CutProxy;
  readonly client: WebSocketClient;
  readonly seqs: number[];
  readonly gaps: unknown[];
  readonly cut: Cut;
  /** A connection after the cut one is open. A busy machine may lose one before its cut. */
  isResumed: boolean;
  recoveredAt: number | undefined;
}

async function openSession(channel: string, offset: number, cut: Cut): Promise<Session> {
  const proxy = new CutProxy(server.address, offset, cut);
  const client = new WebSocketClient(`ws://${await proxy.listen()}`, { transports: ["websocket"], queue: false });
  const session: Session = { proxy, client, seqs: [], gaps: [], cut, isResumed: false, recoveredAt: undefined };
  client.on("error", () => undefined);
  client.on("state", ({ status }) => {
    session.isResumed ||= status === "connected" && proxy.accepted > 1 && proxy.cutAt !== undefined;
  });
  client.subscribe(channel, (message) => {
    if (message.type === "gap") {
      session.gaps.push(message.data);
    } else {
      session.seqs.push(message.seq ?? 0);
      if (session.isResumed) {
        session.recoveredAt ??= performance.now();
      }
    }
  });
  client.connect();
  return session;
}

/** How a session recovered: the time from the cut to the first message of a later connection. */
interface Result {
  readonly offset: number;
  readonly cut: Cut;
  readonly ms: number;
}

/** Cuts a session at each of these offsets, and returns how each recovered. */
async function cutAt(offsets: readonly number[], name: string): Promise<Result[]> {
  const channel = `demo:cuts-${name}`;
  // The limits are those of a machine that has other work too: only the sessions are measured.
  const publisher = new WebSocketClient(`ws://${server.address}`, { queue: false, requestTimeoutMs: 60_000 });
  publisher.connect();
  await publisher.ready();
  const sessions = await Promise.all(offsets.map((offset) => openSession(channel, offset, offset % 2 === 0 ? "reset" : "black hole")));
  let count = 0;
  const timer = setInterval(() => {
    count += 1;
    const isLong = count <= LONG_ONES || sessions.some(({ proxy }) => proxy.cutAt === undefined);
    if (count <= LONG_ONES || count % SLOWER === 0) {
      publisher.send({ type: "publish", data: { channel, data: randomBytes(isLong ? LENGTH : 1).toString("base64") } });
    }
  }, PACE_MS);
  await until(() => sessions.every(({ recoveredAt }) => recoveredAt !== undefined));
  clearInterval(timer);
  const { seq: top } = await publisher.request("history", { channel, limit: 0 });
  await until(() => sessions.every(({ seqs }) => seqs.at(-1) === top));
  const results = sessions.map(({ seqs, gaps, proxy, cut, recoveredAt }, index) => {
    const first = seqs[0] ?? 0;
    expect(seqs, `offset ${offsets[index] ?? 0}`).toEqual(seqs.map((_, place) => first + place));
    expect(gaps).toEqual([]);
    return { offset: offsets[index] ?? 0, cut, ms: (recoveredAt ?? Infinity) - (proxy.cutAt ?? 0) };
  });
  for (const { client, proxy } of sessions) {
    client.disconnect();
    proxy.close();
  }
  publisher.disconnect();
  return results;
}

/** Prints how long the sessions so far took to recover, by the kind of cut. */
function report(results: readonly Result[]): void {
  for (const cut of ["reset", "black hole"] as const) {
    const times = results.filter((one) => one.cut === cut).map(({ ms }) => ms);
    times.sort((a, b) => a - b);
    const at = (part: number): string => `${(times[Math.min(times.length - 1, Math.floor(part * times.length))] ?? 0).toFixed(0)} ms`;
    process.stdout.write(`cuts: ${times.length} by ${cut}: p50 ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)}\n`);
  }
}

describe.skipIf(binary === undefined)("a session that is cut", () => {
  beforeAll(() => server.start());
  afterAll(() => server.close());

  it("recovers at every offset, without a gap and without a duplicate", { timeout: 7_200_000 }, async () => {
    // In each second step, an odd offset: half of the cuts are silent.
    const all = Array.from({ length: Math.ceil(SESSION_BYTES / STEP) }, (_, index) => 1 + index * STEP).filter((offset) => offset <= SESSION_BYTES);
    // In several passes, so that a run that is stopped has been everywhere.
    const offsets = Array.from({ length: PASSES }, (_, pass) => all.filter((__, index) => index % PASSES === pass)).flat();
    const results: Result[] = [];
    for (let start = 0; start < offsets.length; start += BATCH) {
      results.push(...(await cutAt(offsets.slice(start, start + BATCH), String(start))));
      if (start % (BATCH * REPORT_EVERY) === 0) {
        report(results);
      }
    }
    expect(results).toHaveLength(offsets.length);
    report(results);
  });
});
