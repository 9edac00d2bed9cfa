/** The table of situations: each names a test that exists. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

const here = (path: string): URL => new URL(path, import.meta.url);

it("each situation of the table has its test", () => {
  const rows = readFileSync(here("README.md"), "utf8").matchAll(/\[[^\]]+\]\(([^)]+)\) \| (.+) \|$/gm);
  const missing: string[] = [];
  let count = 0;
  for (const [, file = "", name = ""] of rows) {
    count += 1;
    const text = readFileSync(here(file), "utf8");
    if (!text.includes(`"${name}"`) && !text.includes(`fn ${name}(`)) {
      missing.push(`${file}: ${name}`);
    }
  }
  expect(missing).toEqual([]);
  expect(count).toBeGreaterThan(25);
});
