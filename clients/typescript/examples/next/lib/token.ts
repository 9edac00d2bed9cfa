/** Tokens: JWTs that the server verifies with the shared secret (HS256, RFC 7519). */
import { createHmac } from "node:crypto";

/** Who a token is for, and what it allows. */
export interface Claims {
  /** The user. */
  readonly sub: string;
  /** `service` for back ends. */
  readonly scope?: string;
}

/** Returns a token that expires after `ttlSeconds`. */
export function signToken(claims: Claims, ttlSeconds: number): string {
  const secret = process.env["TIDEWIRE_SECRET"];
  if (secret === undefined) {
    throw new Error("TIDEWIRE_SECRET is not set, expected the `hmac_secret` of the server");
  }
  const exp = Math.floor(Date.now() / 1_000) + ttlSeconds;
  const [head, body] = [{ alg: "HS256", typ: "JWT" }, { ...claims, exp }].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"));
  const signature = createHmac("sha256", secret).update(`${String(head)}.${String(body)}`).digest("base64url");
  return `${String(head)}.${String(body)}.${signature}`;
}

/** Returns a token of this application itself, which may notify and publish. */
export function serviceToken(): string {
  return signToken({ sub: "backend", scope: "service" }, 60);
}
