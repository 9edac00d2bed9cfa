import { describe, expect, it } from "vitest";
import { environmentWith } from "./environment.ts";
import { openRequests } from "./requests.ts";

describe("requests", () => {
  it("an error has no reply beside it", () => {
    const calls: unknown[][] = [];
    const [start, settle] = openRequests(
      environmentWith({}).clock,
      () => undefined,
      () => true,
    );
    start("subscribe", { channels: ["prices:BTC-USD"] }, (...call) => {
      calls.push(call);
    });
    expect(settle({ type: "error", id: "1", data: { code: "unauthenticated", message: "a token is needed" } })).toBe(true);
    expect(calls).toMatchObject([[{ code: "unauthenticated" }, undefined]]);
  });
});
