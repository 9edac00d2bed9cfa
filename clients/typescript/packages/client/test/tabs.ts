/** Tabs of one browser at one fake server, for the tests of the tabs. */
import type { ClientOptions } from "../src/api.ts";
import type { WebSocketClient } from "../src/client.ts";
import { createTabClient } from "../src/tabs/index.ts";
import { FakeServer } from "../src/testing/server.ts";
import { FakeBrowser } from "./browser.ts";

export class FakeTabs {
  readonly server = new FakeServer();
  readonly browser = new FakeBrowser();
  #random = 0;

  /** Another number each time, the same ones in each run. */
  readonly random = (): number => (this.#random = (this.#random + 0.37) % 1);

  /** Lets the notes between tabs and the frames of the server arrive. */
  async settle(): Promise<void> {
    for (let round = 0; round < 5; round += 1) {
      await this.server.settle();
    }
  }

  /** Opens the client of a tab. `prepare` has it before it connects. */
  async open(tab = this.browser.open(), options: ClientOptions = {}, prepare: (client: WebSocketClient) => void = () => undefined): Promise<WebSocketClient> {
    const environment = { ...this.server.environment, random: this.random };
    const client = createTabClient("ws://test", { environment, queue: false, ...options }, tab.environment);
    prepare(client);
    client.connect();
    await this.settle();
    return client;
  }
}
