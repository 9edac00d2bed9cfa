import { describe, expect, it } from "vitest";
import { digitsOf, fixed } from "./digits.ts";

describe("decimals", () => {
  it("are those of the values, at most those that fit the magnitude, and never fewer than before", () => {
    expect(digitsOf("A", 61802.34, 61800.5)).toBe(2);
    expect(digitsOf("A", 61800.975)).toBe(2);
    expect(digitsOf("B", 0.36)).toBe(2);
    expect(digitsOf("B", 0.360065)).toBe(6);
    expect(digitsOf("B", 0.36)).toBe(6);
    expect(digitsOf("C", 0.00001304, null, undefined, 0)).toBe(8);
    expect(digitsOf("D", 1.5e-7)).toBe(8);
  });

  it("are always written", () => {
    expect([fixed(61802, 2), fixed(0.36, 6), fixed(null, 2), fixed(0, 2)]).toEqual(["61,802.00", "0.360000", "—", "0.00"]);
  });
});
