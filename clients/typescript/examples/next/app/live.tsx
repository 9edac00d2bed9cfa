"use client";
/** The connection of all pages. */
import { ConnectionStatus, WebSocketProvider } from "@tidewire/react";
import type { ReactElement, ReactNode } from "react";

/** Fetches a token of the signed-in user. The client calls it to connect, and before the token expires. */
async function getToken(): Promise<string | undefined> {
  const response = await fetch("/api/token");
  if (response.status === 401) {
    // Not signed in: public channels only.
    return undefined;
  }
  if (!response.ok) {
    // The client asks again later.
    throw new Error(`the token route answered ${response.status}`);
  }
  const { token } = (await response.json()) as { token: string };
  return token;
}

const options = { getToken };

export function Live({ url, children }: { readonly url: string; readonly children: ReactNode }): ReactElement {
  return (
    <WebSocketProvider url={url} options={options}>
      <header>
        <ConnectionStatus />
      </header>
      {children}
    </WebSocketProvider>
  );
}
