// Hot reload of components with hooks, by the development server of Next.js: React's Fast Refresh runs the effects and
// memos of an edited component anew, whatever they depend on. A page of the example's application that is there for this
// check is edited while a browser shows it.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assert, until } from "../../console/e2e/harness.mjs";

const PAGE = `import { serverUrl } from "../../lib/rpc.ts";
import { View } from "./view.tsx";

export default function Page() {
  return <View url={serverUrl().replace(/^http/, "ws") + "/v1/ws"} />;
}
`;

/** The module with a provider, and the components below it. `hook`: with another one, React mounts all of it anew. */
const view = (version, components, hook = "") => `"use client";
import { WebSocketProvider } from "@tidewire/react";
import { useState } from "react";
${components.map((name) => `import { ${name} } from "./${name.toLowerCase()}.tsx";`).join("\n")}

const options = { requestTimeoutMs: 5_000 };

export function View({ url }) {
  ${hook}
  return (
    <WebSocketProvider url={url} options={options}>
      <p>view ${version}</p>
      ${components.map((name) => `<${name} />`).join("\n      ")}
    </WebSocketProvider>
  );
}
`;

/** A component that shows prices, follows one in an effect of its own, and has a state. */
const component = (name, version, symbols, hook = "") => `"use client";
import { useChannel, useClient, usePriceStream } from "@tidewire/react";
import { useEffect, useState } from "react";

export function ${name}() {
  const { prices } = usePriceStream(${JSON.stringify(symbols)});
  const client = useClient();
  const [seen, setSeen] = useState(0);
  const [clicks, setClicks] = useState(0);
  useEffect(() => client.subscribe("prices:${symbols[0]}", () => setSeen((before) => before + 1)), [client]);
  ${hook}
  return <button onClick={() => setClicks(clicks + 1)}>${name} ${version}, {clicks} clicks, {prices.size && seen ? "live" : "loading"}</button>;
}
`;

/** Removes the page, and the types that the development server made of it: a later build would check them. */
export function removePage(example) {
  for (const name of ["app/hot", ".next/dev"]) {
    rmSync(join(example, name), { recursive: true, force: true });
  }
}

/** Edits components while a page shows them. `start` starts the development server of the example in a folder. */
export async function checkHotReload(context, example, start) {
  const folder = join(example, "app/hot");
  const write = (name, text) => writeFileSync(join(folder, `${name}.tsx`), text);
  mkdirSync(folder);
  write("page", PAGE);
  write("view", view(1, ["First", "Second"]));
  write("first", component("First", 1, ["BTC-USD", "ETH-USD"]));
  write("second", component("Second", 1, ["SOL-USD"]));
  const url = await start();

  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  /** The sockets to the server, and the channels of their requests. The provider of the layout has one too, without channels. */
  const sockets = [];
  page.on("websocket", (socket) => {
    if (socket.url().endsWith("/v1/ws")) {
      const entry = { isOpen: () => !socket.isClosed(), subscribe: [], unsubscribe: [] };
      sockets.push(entry);
      socket.on("framesent", ({ payload }) => {
        const { type, data } = JSON.parse(payload);
        entry[type]?.push(...data.channels.map((one) => one.channel ?? one));
      });
    }
  });
  const used = () => sockets.filter(({ subscribe }) => subscribe.length > 0);
  await page.goto(`${url}/hot`);
  const first = page.getByRole("button", { name: /^First/ });
  const button = (text) => page.getByRole("button", { name: text });
  const isLive = (text) => button(text).waitFor();
  /** Writes a component, and waits until the page shows it. It is written again if the server's watcher missed the change. */
  const edit = async (name, text, shown) => {
    for (let attempt = 1; ; attempt += 1) {
      write(name, `${text}// ${attempt}\n`);
      try {
        await shown.waitFor({ timeout: 15_000 });
        return;
      } catch (error) {
        if (attempt === 6) {
          throw new Error(`${name} is not replaced: the page shows ${await page.innerText("body")}`, { cause: error });
        }
      }
    }
  };
  await isLive("First 1, 0 clicks, live");
  await isLive("Second 1, 0 clicks, live");
  await first.click();
  await isLive("First 1, 1 clicks, live");
  await page.evaluate(() => (globalThis.isSamePage = true));

  // Its text: the state stays.
  await edit("first", component("First", 2, ["BTC-USD", "ETH-USD"]), button("First 2, 1 clicks, live"));
  // The module of the provider, whose options are a new object then.
  await edit("view", view(2, ["First", "Second"]), page.getByText("view 2"));
  await isLive("First 2, 1 clicks, live");
  // Other symbols, and another hook: it is mounted anew.
  await edit("first", component("First", 3, ["BTC-USD", "XRP-USD"], 'useChannel("prices:ETH-USD");'), button("First 3, 0 clicks, live"));
  // One component less.
  await edit("view", view(3, ["First"]), page.getByText("view 3"));
  await until("the end of the removed component's subscription", () => used().some(({ unsubscribe }) => unsubscribe.length > 0));
  await isLive("First 3, 0 clicks, live");

  assert(await page.evaluate(() => globalThis.isSamePage), "the page was loaded again: expected that edits replace components");
  assert(used().length === 1 && used()[0].isOpen(), `expected one socket with channels, got ${used().length}`);
  const expectChannels = ({ subscribe, unsubscribe }, subscribed, left) => {
    const found = [subscribe, unsubscribe].map((names) => [...names].sort().join());
    assert(found[0] === subscribed && found[1] === left, `expected one subscription of ${subscribed}, and the end of ${left}, got ${found.join(" and ")}`);
  };
  expectChannels(used()[0], "prices:BTC-USD,prices:ETH-USD,prices:SOL-USD,prices:XRP-USD", "prices:SOL-USD");

  // The provider itself is mounted anew: its connection ends, and the next one has each channel once.
  await edit("view", view(4, ["First"], "useState(0);"), page.getByText("view 4"));
  await isLive("First 3, 0 clicks, live");
  await until("the end of the connection before", () => !used()[0].isOpen());
  assert(used().length === 2 && used()[1].isOpen(), `expected one more socket with channels, got ${used().length}`);
  expectChannels(used()[1], "prices:BTC-USD,prices:ETH-USD,prices:XRP-USD", "");
  assert(errors.length === 0, errors.join("\n"));
  await page.close();
}
