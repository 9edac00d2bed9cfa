/** `GET /api/token`: a token of the signed-in user. The browser's client fetches one to connect, and the next before it expires. */
import { signToken } from "../../../lib/token.ts";
import { userOf } from "../../../lib/user.ts";

export function GET(request: Request): Response {
  const user = userOf(request);
  if (user === undefined) {
    return Response.json({ message: "not signed in" }, { status: 401 });
  }
  const ttlSeconds = Number(process.env["TOKEN_TTL_SECONDS"] ?? 300);
  return Response.json({ token: signToken({ sub: user }, ttlSeconds) }, { headers: { "cache-control": "no-store" } });
}
