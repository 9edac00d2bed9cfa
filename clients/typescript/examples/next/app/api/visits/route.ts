/** `POST /api/visits`: counts a visit, and publishes the count over gRPC to `analytics:visits`. */
import { publish } from "../../../lib/grpc.ts";

/** The count of this process. A real application has it in its database. */
let visits = 0;

export async function POST(): Promise<Response> {
  visits += 1;
  await publish("analytics:visits", { visits, at: Date.now() });
  return Response.json({ visits });
}
