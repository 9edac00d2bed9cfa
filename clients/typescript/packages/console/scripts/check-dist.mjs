// Fails when the committed page is not what the sources build.
import { readFileSync } from "node:fs";
import { build } from "vite";

const committed = new URL("../dist/index.html", import.meta.url);
const before = readFileSync(committed, "utf8");
await build({ root: new URL("..", import.meta.url).pathname, logLevel: "error" });
if (readFileSync(committed, "utf8") !== before) {
  console.error("dist/index.html is not what the sources build: run `npm run build` and commit it");
  process.exit(1);
}
