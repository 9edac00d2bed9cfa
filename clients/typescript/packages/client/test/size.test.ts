/** Size of what an application ships: minified and gzipped, everything that is reachable from an entry. */
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { describe, expect, it } from "vitest";

/** Bytes after minification and gzip. Lower them when the code gets smaller. */
const BARS = { "index.ts": 7_812, "tabs/index.ts": 9_278 } as const;

async function sizeOf(entry: string): Promise<number> {
  const input = new URL(`../src/${entry}`, import.meta.url).pathname;
  const bundle = await rolldown({ input, resolve: { conditionNames: ["tidewire:source"] } });
  // Builds of applications drop the annotations, which are comments.
  const { output } = await bundle.generate({ format: "es", minify: true, comments: false });
  return gzipSync(output[0].code, { level: 9 }).length;
}

describe("the bundle", () => {
  it.each(Object.entries(BARS))("of %s has at most %i bytes", async (entry, bar) => {
    const bytes = await sizeOf(entry);
    process.stdout.write(`size of ${entry}: ${bytes} bytes, minified and gzipped\n`);
    expect(bytes).toBeLessThanOrEqual(bar);
  });

  it("has no check of messages in it: they are for development", async () => {
    const bundle = await rolldown({ input: new URL("../src/index.ts", import.meta.url).pathname });
    const { output } = await bundle.generate({ format: "es" });
    expect(output[0].moduleIds.filter((id) => id.includes("checks") || id.includes("testing"))).toEqual([]);
  });
});
