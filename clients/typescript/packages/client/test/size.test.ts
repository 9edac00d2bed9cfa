/** Size of what an application ships: minified and gzipped, everything that is reachable from an entry of the package. */
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { beforeAll, describe, expect, it } from "vitest";
import { compile, filesOf } from "../scripts/compile.mjs";

/** Bytes after minification and gzip. Lower them when the code gets smaller. */
const BARS = { "index.js": 8_058, "tabs/index.js": 9_817 } as const;

/** The files of the package as it is published. */
let files: Map<string, string>;

/** Bundles an entry as an application for browsers does. */
async function sizeOf(entry: string): Promise<number> {
  const bundle = await rolldown({ input: entry, plugins: [filesOf(files)] });
  // Builds of applications drop the annotations, which are comments.
  const { output } = await bundle.generate({ format: "es", minify: true, comments: false });
  return gzipSync(output[0].code, { level: 9 }).length;
}

describe("the bundle", () => {
  beforeAll(async () => {
    files = await compile(fileURLToPath(new URL("..", import.meta.url)));
  }, 60_000);

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
