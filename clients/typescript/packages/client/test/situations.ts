/** Parts that the tests of situations share: a client of a fake server, and a storage of the page. */
import { expect } from "vitest";
import type { ClientOptions } from "../src/api.ts";
import { WebSocketClient } from "../src/client.ts";
import type { ChannelMessage } from "../src/subscriptions.ts";
import type { FakeServer } from "../src/testing/server.ts";

/** A storage that survives a reload of the page. */
export function memoryStorage(): Storage {
  const items = new Map<string, string>();
  return {
    get length() {
      return items.size;
    },
    key: (index) => [...items.keys()][index] ?? null,
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
    clear: () => {
      items.clear();
    },
  };
}

/** A client of the server, whose queue is in the storage. */
export function clientOf(server: FakeServer, storage: Storage, options: ClientOptions): WebSocketClient {
  return new WebSocketClient("ws://test/v1/ws", { environment: server.environment, queue: { storage }, ...options });
}

/** Connects a client to its server. */
export async function connectTo(server: FakeServer, client: WebSocketClient): Promise<void> {
  client.connect();
  await server.settle();
  expect(client.state.status).toBe("connected");
}

/** The messages of a channel, as they come. */
export function collectFrom(client: WebSocketClient, channel: string): ChannelMessage[] {
  const received: ChannelMessage[] = [];
  client.subscribe(channel, (message) => received.push(message));
  return received;
}

/** The seqs of messages. */
export const seqs = (messages: readonly ChannelMessage[]): (number | undefined)[] => messages.map(({ seq }) => seq);
