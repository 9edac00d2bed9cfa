/** `POST /api/notify` `{title}`: notifies the signed-in user, with one call over HTTP. */
import { randomUUID } from "node:crypto";
import { call } from "../../../lib/rpc.ts";
import { userOf } from "../../../lib/user.ts";

export async function POST(request: Request): Promise<Response> {
  const user = userOf(request);
  const { title } = (await request.json()) as { title?: unknown };
  if (user === undefined || typeof title !== "string" || title === "") {
    return Response.json({ message: "expected a signed-in user, and a text as `title`" }, { status: 400 });
  }
  const notified = await call<{ id: string }>("NotifyService/Notify", {
    user,
    notification: { type: "system_announcement", title, priority: "high" },
    // The same click, sent twice by the browser, notifies once.
    idempotencyKey: request.headers.get("idempotency-key") ?? randomUUID(),
  });
  return Response.json(notified);
}
