/** Header: the name, the state of the connection and of the data, the theme, and the user. */
import type { ClientState } from "@tidewire/client";
import { useClient, useConnection } from "@tidewire/react";
import { type ReactElement, useEffect, useState } from "react";
import { age, roundTrip } from "../lib/format.ts";
import { useOld, useOnline, useSession } from "../lib/session.ts";
import { dataText, isSample, useSources } from "../lib/sources.ts";
import { nextTheme, useTheme } from "../lib/theme.ts";
import { useTitlePart } from "../lib/title.ts";
import { Fence } from "../ui/fence.tsx";
import { Hint } from "../ui/hint.tsx";
import { openAccount } from "./account.tsx";

/** Text of each state. It changes only with the state, because screen readers read each change. */
const STATE_TEXTS: Readonly<Record<ClientState["status"], string>> = {
  disconnected: "Not connected",
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Offline",
  closed: "Disconnected",
};

/** The header of all pages. */
export function Header(): ReactElement {
  const { user, token } = useSession();
  const theme = useTheme();
  return (
    <header className="top">
      <a className="brand" href="#/overview" aria-label="Tidewire, overview">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="8" />
          <path d="M5 19c4 0 4-6 8-6s4 6 8 6 4-6 6-6" />
        </svg>
        <b>Tidewire</b>
      </a>
      <Version />
      <Degraded />
      <ConnectionStates />
      <button type="button" className="small quiet theme" aria-label={`Colours: ${theme}`} title={`Colours: ${theme}`} onClick={nextTheme}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <circle cx="8" cy="8" r="6.2" />
          <path d={theme === "auto" ? "M8 1.8a6.2 6.2 0 0 1 0 12.4z" : theme === "dark" ? "M8 1.8a6.2 6.2 0 1 1 0 12.4a6.2 6.2 0 1 1 0-12.4z" : ""} />
        </svg>
      </button>
      <button type="button" className="small account" onClick={openAccount}>
        {token === undefined ? "Sign in" : (user ?? "…")}
      </button>
    </header>
  );
}

function Version(): ReactElement | null {
  const connection = useConnection();
  const [version, setVersion] = useState("");
  const current = connection.status === "connected" ? connection.welcome.version : version;
  useEffect(() => {
    setVersion(current);
  }, [current]);
  return current === "" ? null : (
    <span id="version" className="soft">
      v{current}
    </span>
  );
}

function Degraded(): ReactElement | null {
  const client = useClient();
  const [text, setText] = useState("");
  useEffect(() => {
    // Each connection says by itself that the server is degraded.
    const offState = client.on("state", ({ status }) => {
      if (status !== "connected") {
        setText("");
      }
    });
    const offStatus = client.on("status", ({ state, reason }) => {
      setText(state === "ok" ? "" : (reason ?? state));
    });
    return () => {
      offState();
      offStatus();
    };
  }, [client]);
  return text === "" ? null : (
    <span id="degraded" className="tag">
      {text}
    </span>
  );
}

function ConnectionStates(): ReactElement {
  const { status, quality } = useConnection();
  const isOnline = useOnline();
  const isOld = useOld();
  useTitlePart("isOld", isOld);
  useEffect(() => {
    document.body.dataset["connection"] = status;
  }, [status]);
  const rttMs = quality?.rttMs;
  return (
    <span className="states">
      {isOnline && rttMs !== undefined && (
        <span id="rtt" className="soft">
          <Hint text="Round trip to the server">{roundTrip(rttMs)}</Hint>
        </span>
      )}
      <span id="state" role="status" data-status={status}>
        {status === "connecting" && isOld ? "Reconnecting" : STATE_TEXTS[status]}
      </span>
      <Fence fallback={null}>
        <DataState />
      </Fence>
    </span>
  );
}

function DataState(): ReactElement | null {
  const { data } = useSources();
  return useOnline() && data ? (
    <span id="data-state" className="soft">
      · {dataText(data)}
    </span>
  ) : null;
}

/** The bar that shows while the connection is lost, with the time until the next attempt. */
export function ConnectionBar(): ReactElement | null {
  const connection = useConnection();
  const [, setTick] = useState(0);
  const isLost = connection.status !== "connected" && connection.status !== "disconnected" && !(connection.status === "connecting" && connection.attempt === 0);
  useEffect(() => {
    if (isLost) {
      const timer = setInterval(() => {
        setTick((tick) => tick + 1);
      }, 1_000);
      return () => {
        clearInterval(timer);
      };
    }
    return;
  }, [isLost]);
  return isLost ? (
    <aside id="connection-bar" className="strip bad" aria-label="Lost connection">
      <span id="connection-text">{barText(connection)}</span>{" "}
      <button type="button" id="connection-retry" className="small" onClick={connection.connect}>
        Try now
      </button>
    </aside>
  ) : null;
}

function barText(state: ClientState): string {
  switch (state.status) {
    case "reconnecting": {
      const wait = state.retryAt - Date.now();
      return `The connection was lost: ${reasonOf(state.end)}. All figures are old. ${wait > 500 ? `Trying again in ${age(wait)}.` : "Trying again…"}`;
    }
    case "connecting":
      return "Trying to connect again… All figures are old.";
    case "closed":
      return `The connection is closed: ${reasonOf(state.end)}. All figures are old.`;
    default:
      return "";
  }
}

function reasonOf({ code, reason }: { readonly code: number; readonly reason: string }): string {
  if (/\bdrain/i.test(reason)) {
    return "the server stops, for good or to start again";
  }
  // The words of the browsers for a request that reached nobody.
  const isUnreached = code === 1006 || /failed to fetch|networkerror|load failed/i.test(reason);
  if (reason !== "" && !isUnreached) {
    return reason;
  }
  return isUnreached ? "the server cannot be reached" : `close code ${String(code)}`;
}

/** The banner of sample data, with the venues that were tried. */
export function SampleBanner(): ReactElement | null {
  const { data } = useSources();
  if (!data || !isSample(data)) {
    return null;
  }
  const { tried = [] } = data;
  return (
    <aside id="sample" className="strip" aria-label="Sample data">
      <strong>Sample data</strong> <span>Made up for trying things out: these are not market prices.</span>{" "}
      {tried.length > 0 && (
        <span id="tried">
          No venue answers: {tried.map(({ name }) => name).join(", ")}. They are tried on, and market data replaces this once one delivers.
        </span>
      )}
    </aside>
  );
}
