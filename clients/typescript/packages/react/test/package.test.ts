/** The package as it is published: its size, its types and its exports. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { publint } from "publint";
import { rolldown } from "rolldown";
import { beforeAll, describe, expect, it } from "vitest";

const PACKAGES = fileURLToPath(new URL("../..", import.meta.url));
/** Bytes of the hooks and the client, minified and gzipped. Lower them when the code gets smaller. */
const MAX_BYTES = 11_354;
const LIMIT = 120_000;

/** Everything reachable from the root of a package, minified and gzipped. React is external. */
async function gzippedSize(entry: string): Promise<number> {
  const bundle = await rolldown({
    input: `${PACKAGES}/${entry}/dist/index.js`,
    external: ["react"],
    platform: "browser",
    resolve: { conditionNames: ["import"] },
    logLevel: "silent",
  });
  // Builds of applications drop the annotations, which are comments.
  const { output } = await bundle.generate({ format: "es", minify: true, comments: false });
  return gzipSync(output[0].code, { level: 9 }).length;
}

function npx(...args: string[]): string {
  return execFileSync("npx", ["--no-install", ...args], { cwd: PACKAGES, encoding: "utf8" });
}

describe("the package", () => {
  beforeAll(() => {
    for (const name of ["client", "react"]) {
      execFileSync("node", [`${PACKAGES}/client/scripts/build.mjs`], { cwd: `${PACKAGES}/${name}` });
    }
  }, LIMIT);

  it("is small", { timeout: LIMIT }, async () => {
    const bytes = await gzippedSize("react");
    console.log(`gzipped, with the client: ${String(bytes)} bytes`);
    expect(bytes).toBeLessThanOrEqual(MAX_BYTES);
  });

  it("has nothing for publint to say", { timeout: LIMIT }, async () => {
    const { messages } = await publint({ pkgDir: `${PACKAGES}/react`, strict: true });
    expect(messages).toEqual([]);
  });

  it("has a client whose types need no DOM library, as in a Node project", { timeout: LIMIT }, () => {
    const entries = ["index", "tabs/index", "exact", "reconnection-manager", "testing/index", "checks/index"].map((name) => `client/dist/${name}.d.ts`);
    const options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--lib", "es2022", "--target", "es2022", "--module", "nodenext", "--types", "node"];
    // It exits with 1 where it finds a fault.
    expect(npx("tsc", ...options, ...entries)).toBe("");
  });

  it("has types that resolve wherever the package does (attw)", { timeout: LIMIT }, () => {
    // It exits with 1 where a resolution that the profile has fails.
    expect(npx("attw", "--pack", "react", "--profile", "esm-only", "--no-color", "--format", "ascii")).toContain("@tidewire/react");
  });
});
