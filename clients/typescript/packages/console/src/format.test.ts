import { describe, expect, it } from "vitest";
import { age, amount, certainty, clock, count, distance, percent, price, share, size, sparkline } from "./format.ts";

describe("format", () => {
  it("shows what is not known as a dash, never as zero", () => {
    expect([price(null), percent(undefined), share(null), amount(null), age(undefined)]).toEqual(["—", "—", "—", "—", "—"]);
    expect([distance(null, 1), distance(1, null), distance(1, 0)]).toEqual(["—", "—", "—"]);
  });

  it("gives a price the digits that it needs", () => {
    expect([price(61837.634), price(2.5), price(0.105)]).toEqual(["61,837.63", "2.50", "0.105"]);
    expect([price(0), price(0.00001304), price(1e-18)]).toEqual(["0.00", "0.00001304", "0.000000000000000001"]);
  });

  it("shows a confidence with the digits of its price", () => {
    expect([certainty(1.37, 61802.34), certainty(0.000045, 0.36), certainty(null, 1)]).toEqual(["± 1.37", "± 0.000045", "—"]);
  });

  it("says how a clock is set", () => {
    expect([clock(0.4), clock(320), clock(-1270)]).toEqual(["clock in step", "clock 320 ms behind", "clock 1,270 ms ahead"]);
  });

  it("counts", () => {
    expect([count(0, "frame"), count(1, "frame"), count(2, "frame")]).toEqual(["0 frames", "1 frame", "2 frames"]);
  });

  it("gives a change its sign, and a part of a whole none", () => {
    expect([percent(1.234), percent(-0.5), percent(0), share(54.2)]).toEqual(["+1.23 %", "−0.50 %", "0.00 %", "54.20 %"]);
    expect([distance(100.1, 100), distance(99.9, 100), distance(100, 100)]).toEqual(["+10.0 bp", "−10.0 bp", "0.0 bp"]);
  });

  it("shortens ages and sizes", () => {
    expect([age(-5), age(1_400), age(180_000), age(7_200_000)]).toEqual(["0 s", "1 s", "3 min", "2 h"]);
    expect([size(3838.25429906), size(0.000123456)]).toEqual(["3,838", "0.0001235"]);
  });

  it("keeps a sparkline in its box", () => {
    expect(sparkline([1, 3, 2], 100, 24)).toBe("0.0,22.0 50.0,2.0 100.0,12.0");
    expect(sparkline([5], 100, 24)).toBe("0.0,22.0");
  });
});
