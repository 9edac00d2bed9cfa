// Check of the committed page: fails if the sources build another page, or if the page is too large.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "vite";

/** Limit of the compressed page in bytes, all that a browser loads: a phone on a slow network has it in a second. */
const MAX_BYTES = 120_000;

const committed = new URL("../dist/index.html", import.meta.url);
const before = readFileSync(committed, "utf8");
await build({ root: new URL("..", import.meta.url).pathname, logLevel: "error" });
if (readFileSync(committed, "utf8") !== before) {
  console.error("dist/index.html differs from what the sources build: run `npm run build` and commit it");
  process.exit(1);
}
const size = gzipSync(before).length;
if (size > MAX_BYTES) {
  console.error(`the page has ${size} bytes compressed, expected at most ${MAX_BYTES}`);
  process.exit(1);
}
console.log(`the page is as built: ${size} bytes compressed`);
