// Checks of the examples: each runs against the server as the README shows.
import { fileURLToPath } from "node:url";
import { check, runUntil, WEB_SOCKET_FLAG } from "./harness.mjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

export async function checkExamples(server) {
  const run = (file, expected) => runUntil(expected, process.execPath, [...WEB_SOCKET_FLAG, `packages/examples/${file}`, server], { cwd: ROOT });

  await check("the examples build", async () => {
    for (const folder of ["client", "examples"]) {
      await runUntil(/built/, "sh", ["-c", `npx tsc -p packages/${folder}/tsconfig.build.json && echo built`], { cwd: ROOT });
    }
  });
  await check("the example of prices", () => run("dist/prices.js", /connected\n[^]*BTC-USD \d+/));
  await check("the example of messages", () => run("dist/messages.js", /seq \d+: \{ text: 'hello' \}/));
  await check("the example of Server-Sent Events", () => run("src/sse.mjs", /^price \{/m));
  await check("the example of a call", () => run("src/rpc.mjs", /BTC-USD \d+[^]*: \d+[.\d]*, live, weight/));
}
