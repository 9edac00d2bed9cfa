/** The client's own failures: their texts, their numbers in a build for production, and the README's table of them. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { say as sayNumber } from "./runtime/default.ts";
import { say as sayInNode } from "./runtime/node.ts";
import { TEXTS } from "./runtime/texts.ts";
import * as numbers from "./texts.ts";

describe("the client's own failures", () => {
  it("have a text each, of a number of their own", () => {
    const all = Object.values(numbers);
    expect(new Set(all).size).toBe(all.length);
    expect(Object.keys(TEXTS).map(Number)).toEqual([...all].sort((a, b) => a - b));
  });

  it("are in the README by number", () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
    const rows = [...readme.matchAll(/^\| E(\d+) \| (.*) \|$/gm)].map(([, number, text]) => [Number(number), text]);
    expect(rows).toEqual(Object.entries(TEXTS).map(([number, text]) => [Number(number), text("…") === "…" ? text("") : text("…")]));
  });

  it("say what they are in Node, and their number and what is known in production", () => {
    expect(sayInNode(numbers.NO_REPLY, "10000")).toBe("no reply within 10000 ms");
    expect(sayNumber(numbers.NO_REPLY, "10000")).toBe(`tidewire E${numbers.NO_REPLY} 10000`);
  });
});
