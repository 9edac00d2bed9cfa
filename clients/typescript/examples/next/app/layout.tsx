import type { ReactElement, ReactNode } from "react";
import { serverUrl } from "../lib/rpc.ts";
import { Live } from "./live.tsx";

// The address of the server is read when a page is requested, not when the application is built.
export const dynamic = "force-dynamic";

export default function Layout({ children }: { readonly children: ReactNode }): ReactElement {
  return (
    <html lang="en">
      <body>
        <Live url={`${serverUrl().replace(/^http/, "ws")}/v1/ws`}>
          <nav>
            <a href="/">Prices</a> <a href="/payments">Payments</a> <a href="/analytics">Analytics</a>
          </nav>
          {children}
        </Live>
      </body>
    </html>
  );
}
