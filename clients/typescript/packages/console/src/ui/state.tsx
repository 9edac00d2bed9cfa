/** States of a part of the page: nothing yet, nothing at all, refused, failed, old. */
import type { TidewireError } from "@tidewire/client";
import { useConnection } from "@tidewire/react";
import type { ReactElement, ReactNode } from "react";
import { age } from "../lib/format.ts";
import { useNow } from "../lib/clock.ts";
import { useOld } from "../lib/session.ts";

/** Whether the server cannot be reached: nothing that is missing comes before the next connection. */
export function useLost(): boolean {
  const connection = useConnection();
  return useOld() || connection.status === "reconnecting" || (connection.status === "connecting" && connection.attempt > 0);
}

/** Rows that stand in for data that is on its way. Without a connection none is. */
export function Loading({ rows = 3, what = "data" }: { readonly rows?: number; readonly what?: string }): ReactElement {
  return useLost() ? (
    <Empty title="Not loaded: no connection">The page shows {what} as soon as the server can be reached again.</Empty>
  ) : (
    <div className="loading" role="status">
      <span className="hidden">Loading {what}</span>
      {Array.from({ length: rows }, (_, index) => (
        <i key={index} />
      ))}
    </div>
  );
}

/** A part with nothing to show: why, and what the reader can do. */
export function Empty({ title, children }: { readonly title: ReactNode; readonly children?: ReactNode }): ReactElement {
  return (
    <div className="empty">
      <b>{title}</b>
      {children !== undefined && <p>{children}</p>}
    </div>
  );
}

/** A part that needs symbols, on a server that has none. `children` says what else that means. */
export function NoSymbol({ children }: { readonly children?: ReactNode }): ReactElement {
  return (
    <Empty title="No symbol is configured">
      <code>[prices] symbols</code> names the symbols, and a venue must offer them. {children}
    </Empty>
  );
}

/** Why a part has no data: the right that is missing, or what the server said. */
export function Failure({ error, what, retry }: { readonly error: TidewireError; readonly what: string; readonly retry?: () => void }): ReactElement {
  const isRefused = error.code === "permission_denied" || error.code === "unauthenticated";
  return (
    <div className="empty failure" role="alert">
      <b>{isRefused ? `You may not see ${what}` : `Could not load ${what}`}</b>
      <p>
        {sentence(error.message)} {isRefused && "Sign in with a token that has this right."}
      </p>
      {retry && !isRefused && (
        <button type="button" className="small" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** Makes a sentence of an error: upper case first, a full stop last. */
export function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** Says that what is shown is old, while the connection is lost. `at` is when it was last current. */
export function OldMark({ at }: { readonly at?: number | undefined }): ReactElement | null {
  return useOld() ? <OldTag at={at} /> : null;
}

function OldTag({ at }: { readonly at?: number | undefined }): ReactElement {
  const now = useNow();
  return <span className="old-mark">{at === undefined ? "old" : `${age(now - at)} old`}</span>;
}
