/** Routes: each page has a URL by the hash of the address, such as `#/prices/BTC-USD`. */
import { createStore, useStore } from "./store.ts";

/** The pages, in the order of the tabs. */
export const PAGES = ["overview", "prices", "market", "chains", "inbox", "alerts", "channels", "connections", "setup"] as const;

/** A page with a tab. */
export type Page = (typeof PAGES)[number];

/** A parsed hash. */
export interface Route {
  /** `undefined` for a hash that names no page. */
  readonly page: Page | undefined;
  /** The parts behind the page: `BTC-USD` of `#/prices/BTC-USD`. */
  readonly args: readonly string[];
}

/** Parses the hash of an address. Without one it is the overview. */
export function parseRoute(hash: string): Route {
  const [name = "", ...args] = hash.replace(/^#\/?/, "").split("/").map(decode);
  const page = name === "" ? "overview" : PAGES.find((known) => known === name);
  return { page, args: args.filter((part) => part !== "") };
}

/** The address of a page: `href("prices", "BTC-USD")` is `#/prices/BTC-USD`. */
export function href(page: Page, ...args: readonly string[]): string {
  return `#/${[page, ...args.map((part) => encodeURIComponent(part).replaceAll("%3A", ":"))].join("/")}`;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const route = createStore<Route>(parseRoute(typeof location === "undefined" ? "" : location.hash));

/** Follows the address. Called once, when the page starts. */
export function followAddress(): void {
  addEventListener("hashchange", () => {
    route.set(parseRoute(location.hash));
  });
}

/** The route of the address, followed. */
export function useRoute(): Route {
  return useStore(route);
}

/** Goes to a page, as a link would. */
export function go(page: Page, ...args: readonly string[]): void {
  location.hash = href(page, ...args);
}
