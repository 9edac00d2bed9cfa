import { describe, expect, it } from "vitest";
import { linePath } from "./sparkline.ts";

const BOX = { width: 100, height: 24, leastSpan: 1, zero: false };

describe("sparkline", () => {
  it("keeps the line in its box, by the time of the points", () => {
    expect(linePath([[0, 1], [500, 3], [1_000, 2]], BOX).line).toBe("M0.0 22.0L50.0 2.0L100.0 12.0");
    expect(linePath([[0, 1], [900, 3], [1_000, 2]], BOX).line).toBe("M0.0 22.0L90.0 2.0L100.0 12.0");
  });

  it("shows a change below the least span as a small one, in the middle", () => {
    expect(linePath([[0, 10], [10, 10.1]], BOX).line).toBe("M0.0 13.0L100.0 11.0");
    expect(linePath([[0, 10]], BOX).line).toBe("M0.0 12.0h0.1");
  });

  it("begins at zero where it is told to", () => {
    expect(linePath([[0, 5], [10, 10]], { ...BOX, zero: true }).line).toBe("M0.0 12.0L100.0 2.0");
    expect(linePath([[0, 0], [10, 0]], { ...BOX, zero: true }).line).toBe("M0.0 22.0L100.0 22.0");
  });

  it("leaves a hole where there is no value, in the area too", () => {
    const { line, area } = linePath([[0, 1], [1, 2], [2, null], [3, 2], [4, 1]], BOX);
    expect(line).toBe("M0.0 22.0L25.0 2.0M75.0 2.0L100.0 22.0");
    expect(area.match(/Z/g)).toHaveLength(2);
    expect(linePath([[0, null]], BOX)).toEqual({ line: "", area: "" });
  });
});
