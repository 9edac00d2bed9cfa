import { describe, expect, it } from "vitest";
import { metricOf } from "./metrics.ts";

const TEXT = `# HELP tidewire_part_degraded Whether a part is degraded
tidewire_part_degraded{part="venues"} 1
tidewire_part_degraded{part="chain 7357",more="a b"} 0

tidewire_part_degraded_total 9
tidewire_alerts_rules 4
`;

describe("metrics", () => {
  it("are read by their name, with their labels", () => {
    expect(metricOf(TEXT, "tidewire_part_degraded")).toEqual([
      { labels: { part: "venues" }, value: 1 },
      { labels: { part: "chain 7357", more: "a b" }, value: 0 },
    ]);
    expect(metricOf(TEXT, "tidewire_alerts_rules")).toEqual([{ labels: {}, value: 4 }]);
    expect(metricOf(TEXT, "nothing")).toEqual([]);
  });
});
