/** Requests: calls a unary RPC of the server as JSON, with the token where one is needed. */
import { TidewireError } from "@tidewire/client";
import { base } from "./base.ts";
import { currentSession, demandToken } from "./session.ts";

/** Time limit of a call in milliseconds. */
const TIMEOUT_MS = 15_000;

/** Whose rights a call uses. */
export interface CallOptions {
  /** As the user who signed in, never as the page. */
  readonly asUser?: boolean;
  /** Resolves to the text of the response, byte for byte. */
  readonly asText?: boolean;
}

/** Methods that the page may not call, and a user with a token may. */
const needToken = new Set<string>();

/**
 * Calls `Service/Method`. A body that is a string is sent as it is, byte for byte.
 *
 * As the page, it goes without a token first: on loopback that may do more. If the server refuses
 * it for want of a token or a right, it goes with the token of the user.
 * Rejects with a `TidewireError`: the server's, or `unavailable` if it can not be reached.
 */
export async function call<Reply>(service: string, method: string, body: object | string = {}, { asUser = false, asText = false }: CallOptions = {}): Promise<Reply> {
  const name = `${service}/${method}`;
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const { token, wantsToken } = currentSession();
  if (asUser || wantsToken || (token !== undefined && needToken.has(name))) {
    return send<Reply>(name, text, token, asText);
  }
  try {
    return await send<Reply>(name, text, undefined, asText);
  } catch (error) {
    const code = error instanceof TidewireError ? error.code : "";
    if (code === "unauthenticated") {
      demandToken();
    }
    if (token === undefined || (code !== "unauthenticated" && code !== "permission_denied")) {
      throw error;
    }
    const reply = await send<Reply>(name, text, token, asText);
    needToken.add(name);
    return reply;
  }
}

async function send<Reply>(name: string, text: string, token: string | undefined, asText: boolean): Promise<Reply> {
  let response: Response;
  let reply: unknown;
  try {
    response = await fetch(`${base}/v1/rpc/${name}`, {
      method: "POST",
      body: text,
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...(token !== undefined && { headers: { authorization: `Bearer ${token}` } }),
    });
    reply = asText && response.ok ? await response.text() : await response.json();
  } catch {
    throw new TidewireError({ code: "unavailable", message: "the server cannot be reached" });
  }
  if (!response.ok) {
    const { code = "internal", message = "the server gave no reason" } = (reply ?? {}) as { readonly code?: string; readonly message?: string };
    throw new TidewireError({ code, message });
  }
  if (Object(reply) !== reply && !asText) {
    throw new TidewireError({ code: "internal", message: `the reply to ${name} is no JSON object` });
  }
  return reply as Reply;
}
