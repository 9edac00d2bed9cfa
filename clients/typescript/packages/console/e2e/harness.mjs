// What the browser test stands on: a browser, checks that print `ok` or `not ok`,
// waits on conditions, and commands that are run until they have said enough.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** How long anything may take before it counts as broken. */
export const PATIENCE_MS = 20_000;

const BROWSERS = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A fresh browser; `close` also removes its folder. */
export async function openBrowser(options = {}) {
  const executablePath = BROWSERS.find((path) => path && existsSync(path));
  if (executablePath === undefined) {
    throw new Error("no Chromium was found: install it or set CHROMIUM to its path");
  }
  const folder = mkdtempSync(join(tmpdir(), "tidewire-browser-"));
  const context = await chromium.launchPersistentContext(folder, { executablePath, args: FLAGS, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  return {
    context,
    async close() {
      await context.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

let failures = 0;

/** How many checks failed. */
export function failed() {
  return failures;
}

/** Runs one check; what it throws fails it, and the next one goes on. */
export async function check(name, body) {
  try {
    await body();
    console.log(`ok ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`not ok ${name}`);
    console.log(String(error?.stack ?? error).replace(/^/gm, "  # "));
  }
}

/** Throws unless it is so. */
export function assert(condition, message) {
  if (!condition) {
    throw new Error(message);
  }
}

/** Waits until `probe` gives something true, and gives that. */
export async function until(what, probe) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await probe();
    if (found) {
      return found;
    }
    if (Date.now() > end) {
      throw new Error(`it never came to this: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}

/**
 * Runs a command until its output fits `expected`, then stops it. Fails if it ends
 * or takes too long before that.
 */
export function runUntil(expected, command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let output = "";
    const finish = (act) => {
      clearTimeout(timer);
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
      act();
    };
    const complain = (what) => () => reject(new Error(`${what} before it said ${expected}; it said:\n${output}`));
    const timer = setTimeout(() => finish(complain("the command took too long")), PATIENCE_MS);
    const hear = (bytes) => {
      output += bytes;
      if (expected.test(output)) {
        finish(() => resolve(output));
      }
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.on("error", (error) => finish(() => reject(error)));
    child.on("close", () => finish(complain("the command ended")));
  });
}

/** Node's flag for a global `WebSocket`, where it does not have one without. */
export const WEB_SOCKET_FLAG = typeof WebSocket === "undefined" ? ["--experimental-websocket"] : [];
