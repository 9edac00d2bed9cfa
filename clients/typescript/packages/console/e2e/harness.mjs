// Test harness: a browser, checks that print `ok` or `not ok`, waits on conditions,
// and commands that run until their output matches.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** The time limit of every wait, in milliseconds. */
export const TIMEOUT_MS = 20_000;

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

/** Opens a browser with an empty profile. `close` also removes the profile. */
export async function openBrowser(options = {}) {
  const executablePath = BROWSERS.find((path) => path && existsSync(path));
  if (executablePath === undefined) {
    throw new Error("found no Chromium: install it or set CHROMIUM to its path");
  }
  const folder = mkdtempSync(join(tmpdir(), "tidewire-browser-"));
  const context = await chromium.launchPersistentContext(folder, { executablePath, args: FLAGS, ...options });
  context.setDefaultTimeout(TIMEOUT_MS);
  return {
    context,
    async close() {
      await context.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

let failures = 0;

/** The number of failed checks. */
export function failed() {
  return failures;
}

/** Runs one check. An exception fails it, and the next check runs. */
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

/** Throws `message` unless `condition` holds. */
export function assert(condition, message) {
  if (!condition) {
    throw new Error(message);
  }
}

/** Waits until `probe` returns something true, and returns that. */
export async function until(expected, probe) {
  const end = Date.now() + TIMEOUT_MS;
  for (;;) {
    const result = await probe();
    if (result) {
      return result;
    }
    if (Date.now() > end) {
      throw new Error(`timed out waiting for ${expected}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}

/**
 * Runs a command until its output matches `expected`, then stops it. Rejects if the
 * command ends or times out first.
 */
export function runUntil(expected, command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let output = "";
    const finish = (settle) => {
      clearTimeout(timer);
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // The command has ended by itself.
      }
      settle();
    };
    const fail = (reason) => () => reject(new Error(`${reason} before its output matched ${expected}; the output:\n${output}`));
    const timer = setTimeout(() => finish(fail("the command timed out")), TIMEOUT_MS);
    const onOutput = (bytes) => {
      output += bytes;
      if (expected.test(output)) {
        finish(() => resolve(output));
      }
    };
    child.stdout.on("data", onOutput);
    child.stderr.on("data", onOutput);
    child.on("error", (error) => finish(() => reject(error)));
    child.on("close", () => finish(fail("the command ended")));
  });
}

/** Node's flag for a global `WebSocket`, where Node has none by default. */
export const WEB_SOCKET_FLAG = typeof WebSocket === "undefined" ? ["--experimental-websocket"] : [];
