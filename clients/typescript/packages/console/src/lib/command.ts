/** Commands: how they are typed on the server's machine, with the configuration file that the server has. */
import type { ServerSeries } from "./api-types.ts";
import { base } from "./base.ts";
import { call } from "./rpc.ts";
import { followSession, onlineStore } from "./session.ts";
import { shellWord } from "./shell-word.ts";
import { createStore, useStore } from "./store.ts";

/** Commands that a page shows are typed on the machine that it is opened on. */
const IS_LOCAL = /^https?:\/\/(localhost|127\.|\[::1\])/.test(base);

/** The options that name the configuration, with a space before them. Undefined while it is not known. */
const options = createStore<string | undefined>(undefined);

/** Reads the name of the file. An operator may, and on loopback is one without a token. */
function read(): void {
  if (onlineStore.get()) {
    call("AdminService", "GetServerSeries", "{}", {}).then(
      (reply) => {
        options.set(optionsOf((reply as ServerSeries).configFile));
      },
      () => undefined,
    );
  }
}

/** Returns the options for a server with this file, with a space before them. */
export function optionsOf(file: string | undefined): string {
  return file === undefined ? "" : ` --config ${/^[\w./+:@%=,-]+$/.test(file) ? file : shellWord(file)}`;
}

/** Starts to read them, now and for each connection and user. */
export function startCommandOptions(): void {
  if (IS_LOCAL) {
    onlineStore.follow(read);
    followSession(read);
    read();
  }
}

/** The options that a command needs now. Undefined while they are not known. */
export function commandOptions(): string | undefined {
  return options.get();
}

/** The same, for a component. */
export function useCommandOptions(): string | undefined {
  return useStore(options);
}
