import type { ReactElement } from "react";
import { userOfCookies } from "../../lib/session.ts";
import { Payment } from "./payment.tsx";

export default async function Page(): Promise<ReactElement> {
  const user = await userOfCookies();
  return (
    <main>
      <h1>Payments</h1>
      {user === undefined ? <p>Sign in first.</p> : <Payment user={user} />}
    </main>
  );
}
