import { describe, expect, it } from "vitest";
import { age, bytes, clockOffset, compact, confidence, count, deviation, percent, percentChange, price, roundTrip, size, timeAndDay } from "./format.ts";

describe("format", () => {
  it("shows an unknown value as a dash, never as zero", () => {
    expect([price(null), percentChange(undefined), percent(null), compact(null), age(undefined)]).toEqual(["—", "—", "—", "—", "—"]);
    expect([deviation(null, 1), deviation(1, null), deviation(1, 0)]).toEqual(["—", "—", "—"]);
  });

  it("shows a price with the decimals that fit its magnitude", () => {
    expect([price(61837.634), price(2.5), price(0.105)]).toEqual(["61,837.63", "2.50", "0.105"]);
    expect([price(0), price(0.00001304), price(1e-18)]).toEqual(["0.00", "0.00001304", "0.000000000000000001"]);
  });

  it("shows a confidence with the decimals of its price", () => {
    expect([confidence(1.37, 61802.34), confidence(0.000045, 0.36), confidence(null, 1)]).toEqual(["± 1.37", "± 0.000045", "—"]);
  });

  it("shows a round trip with a decimal where it counts", () => {
    expect([roundTrip(0.44), roundTrip(9.96), roundTrip(320.4)]).toEqual(["0.4 ms", "10.0 ms", "320 ms"]);
  });

  it("shows the day of a time that is not today's", () => {
    expect(timeAndDay(Date.now())).toMatch(/^\d\d:\d\d:\d\d$/);
    expect(timeAndDay(new Date(2024, 1, 9, 7, 5, 3).getTime())).toBe("9 Feb 2024 07:05:03");
  });

  it("shows the offset of a clock", () => {
    expect([clockOffset(0.4), clockOffset(320), clockOffset(-1270)]).toEqual(["clock in sync", "clock 320 ms behind", "clock 1,270 ms ahead"]);
  });

  it("shows a count with its noun", () => {
    expect([count(0, "frame"), count(1, "frame"), count(2, "frame")]).toEqual(["0 frames", "1 frame", "2 frames"]);
  });

  it("shows a change with its sign, and a percentage without one", () => {
    expect([percentChange(1.234), percentChange(-0.5), percentChange(0), percent(54.2)]).toEqual(["+1.23 %", "−0.50 %", "0.00 %", "54.20 %"]);
    expect([deviation(100.1, 100), deviation(99.9, 100), deviation(100, 100), deviation(99.9999, 100)]).toEqual(["+10.0 bp", "−10.0 bp", "0.0 bp", "0.0 bp"]);
  });

  it("shortens ages and sizes", () => {
    expect([age(-5), age(1_400), age(180_000), age(7_200_000)]).toEqual(["0 s", "1 s", "3 min", "2 h"]);
    expect([size(3838.25429906), size(0.000123456)]).toEqual(["3,838", "0.0001235"]);
  });

  it("shortens numbers of bytes", () => {
    expect([bytes(0), bytes(999), bytes(1_234), bytes(123_456), bytes(5_000_000_000)]).toEqual(["0 B", "999 B", "1.2 kB", "123 kB", "5.0 GB"]);
  });
});
