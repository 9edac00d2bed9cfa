// Fails when the committed page is not what the sources build, or has grown too large.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "vite";

/** What a phone loads, compressed. */
const MOST_BYTES = 24 * 1024;

const committed = new URL("../dist/index.html", import.meta.url);
const before = readFileSync(committed, "utf8");
await build({ root: new URL("..", import.meta.url).pathname, logLevel: "error" });
if (readFileSync(committed, "utf8") !== before) {
  console.error("dist/index.html is not what the sources build: run `npm run build` and commit it");
  process.exit(1);
}
const size = gzipSync(before).length;
if (size > MOST_BYTES) {
  console.error(`the page has ${size} bytes compressed, expected at most ${MOST_BYTES}`);
  process.exit(1);
}
console.log(`the page is as built: ${size} bytes compressed`);
