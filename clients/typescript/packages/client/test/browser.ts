/** Fake browser: locks and channels between tabs that may be frozen or killed. */
import type { TabChannel, TabEnvironment } from "../src/tabs/index.ts";

/** The locks and channels of one browser. */
export class FakeBrowser {
  readonly #channels = new Map<string, Set<{ readonly tab: FakeTab; readonly channel: TabChannel }>>();
  readonly #locks = new Map<string, { readonly tab: FakeTab; readonly lose: () => void }>();
  readonly #queues = new Map<string, (() => void)[]>();

  open(): FakeTab {
    return new FakeTab(this);
  }

  join(tab: FakeTab, name: string): TabChannel {
    const all = this.#channels.get(name) ?? new Set();
    this.#channels.set(name, all);
    const channel: TabChannel = {
      onmessage: null,
      postMessage: (data) => {
        if (!all.has(entry)) {
          throw new DOMException("Channel is closed", "InvalidStateError");
        }
        if (tab.isRunning) {
          for (const other of all) {
            if (other.channel !== channel) {
              void later(() => {
                other.tab.run(() => all.has(other) && other.channel.onmessage?.({ data }));
              });
            }
          }
        }
      },
      close: () => all.delete(entry),
    };
    const entry = { tab, channel };
    all.add(entry);
    return channel;
  }

  request(tab: FakeTab, name: string, { steal = false, signal }: { readonly steal?: boolean; readonly signal?: AbortSignal }, hold: () => Promise<unknown>): Promise<unknown> {
    if (name.startsWith("-")) {
      return Promise.reject(new DOMException("Names starting with `-` are reserved", "NotSupportedError"));
    }
    return new Promise((resolve, reject) => {
      const grant = (): void => {
        const holder = {
          tab,
          lose: () => {
            tab.run(() => {
              reject(new DOMException("stolen", "AbortError"));
            });
          },
        };
        this.#locks.set(name, holder);
        hold()
          .then(resolve, reject)
          .finally(() => {
            if (this.#locks.get(name) === holder) {
              this.#free(name);
            }
          });
      };
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      const entry = (): void => {
        if (tab.isClosed || signal?.aborted) {
          reject(new DOMException("aborted", "AbortError"));
          this.#free(name);
        } else {
          grant();
        }
      };
      queueMicrotask(() => {
        if (steal) {
          this.#locks.get(name)?.lose();
          grant();
        } else {
          queue.push(entry);
          if (!this.#locks.has(name)) {
            this.#free(name);
          }
        }
      });
    });
  }

  /** The browser frees the locks of a tab that is gone. */
  free(tab: FakeTab): void {
    for (const [name, holder] of [...this.#locks]) {
      if (holder.tab === tab) {
        this.#free(name);
      }
    }
  }

  #free(name: string): void {
    this.#locks.delete(name);
    this.#queues.get(name)?.shift()?.();
  }
}

/** A tab that may be frozen or killed. */
export class FakeTab {
  isClosed = false;
  #frozen: (() => unknown)[] | undefined;
  readonly #browser: FakeBrowser;
  readonly environment: TabEnvironment;

  constructor(browser: FakeBrowser) {
    this.#browser = browser;
    this.environment = {
      locks: { request: (name, options, hold) => browser.request(this, name, options, hold) },
      openChannel: (name) => browser.join(this, name),
    };
  }

  get isRunning(): boolean {
    return !this.isClosed && this.#frozen === undefined;
  }

  /** Runs what the browser calls in this tab, now or after the thaw. */
  run(task: () => unknown): void {
    if (this.#frozen !== undefined) {
      this.#frozen.push(task);
    } else if (!this.isClosed) {
      task();
    }
  }

  freeze(): void {
    this.#frozen = [];
  }

  thaw(): void {
    const tasks = this.#frozen ?? [];
    this.#frozen = undefined;
    tasks.forEach((task) => {
      task();
    });
  }

  kill(): void {
    this.isClosed = true;
    this.#browser.free(this);
  }
}

/** Runs a task after what is under way: notes take another way than locks, which overtake them. */
async function later(task: () => void): Promise<void> {
  for (let round = 0; round < 10; round += 1) {
    await Promise.resolve();
  }
  task();
}
