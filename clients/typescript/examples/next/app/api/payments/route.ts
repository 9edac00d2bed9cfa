/** `POST /api/payments` `{order, chain, hash}`: follows the transaction by which the signed-in user paid an order. */
import { followPayment } from "../../../lib/payments.ts";
import { userOf } from "../../../lib/user.ts";

export async function POST(request: Request): Promise<Response> {
  const user = userOf(request);
  const { order, chain, hash } = (await request.json()) as Record<string, unknown>;
  if (user === undefined || typeof order !== "string" || typeof chain !== "number" || typeof hash !== "string") {
    return Response.json({ message: "expected a signed-in user, and `order`, `chain` and `hash`" }, { status: 400 });
  }
  try {
    await followPayment({ order, user, chain, hash });
  } catch (error) {
    // The server's own text, such as that of a chain that it does not follow.
    const { details, message } = error as { details?: string; message: string };
    console.error(`payment ${order}:`, error);
    return Response.json({ message: details ?? message }, { status: 502 });
  }
  return Response.json({ channel: `payments:${user}` }, { status: 202 });
}
