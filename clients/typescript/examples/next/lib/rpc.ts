/** JSON RPC: one unary call of the server, with `fetch` and no library. Runs on the server only. */
import { serviceToken } from "./token.ts";

/** The server's address, for example `http://127.0.0.1:8080`. */
export function serverUrl(): string {
  return process.env["TIDEWIRE_URL"] ?? "http://127.0.0.1:8080";
}

/** Calls a method such as `NotifyService/Notify`. Throws with the server's code and message. */
export async function call<Reply>(method: string, request: object): Promise<Reply> {
  const response = await fetch(`${serverUrl()}/v1/rpc/${method}`, {
    method: "POST",
    headers: { authorization: `Bearer ${serviceToken()}` },
    body: JSON.stringify(request),
    cache: "no-store",
    signal: AbortSignal.timeout(5_000),
  });
  const reply: unknown = await response.json();
  if (!response.ok) {
    const { code, message } = reply as { code: string; message: string };
    throw new Error(`${method}: ${code}: ${message}`);
  }
  return reply as Reply;
}
