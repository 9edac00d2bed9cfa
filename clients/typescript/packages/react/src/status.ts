/** Connection status: a text for the eye and for screen readers. */
import type { ClientState } from "@tidewire/client";
import { createElement, type ReactElement, useEffect, useState } from "react";
import { useStatus } from "./connection.ts";

/** The text of each state. */
export type StatusLabels = Readonly<Record<ClientState["status"], string>>;

const LABELS: StatusLabels = {
  disconnected: "Not connected",
  connecting: "Connecting…",
  connected: "Connected",
  reconnecting: "Connection lost. Reconnecting…",
  closed: "Connection refused",
};

/** Props of a `ConnectionStatus`. */
export interface ConnectionStatusProps {
  readonly className?: string | undefined;
  /** Texts that replace the English ones. */
  readonly labels?: Partial<StatusLabels> | undefined;
  /** How long a state on the way to a connection must last before it shows, in milliseconds. The default is 1,000. */
  readonly delayMs?: number | undefined;
}

/**
 * Shows the state of the connection in a live region. Screen readers read each change once, when
 * they have time (`aria-live="polite"`). A short interruption is not shown, and so not read. The
 * attribute `data-status` has the state for styles.
 */
export function ConnectionStatus({ className, labels, delayMs = 1_000 }: ConnectionStatusProps): ReactElement {
  const status = useStatus();
  const [shown, setShown] = useState<ClientState["status"]>("connecting");
  if (shown !== status && (status === "connected" || status === "closed")) {
    setShown(status);
  }
  useEffect(() => {
    // The attempts of a first connection are no lost one.
    const timer = setTimeout(setShown, delayMs, (before: typeof status) => (status === "reconnecting" && before === "connecting" ? before : status));
    return () => {
      clearTimeout(timer);
    };
  }, [status, delayMs]);
  return createElement("span", { role: "status", "aria-live": "polite", "data-status": shown, className }, { ...LABELS, ...labels }[shown]);
}
