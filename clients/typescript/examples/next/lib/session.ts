/** The signed-in user in a server component. */
import { cookies } from "next/headers";

export async function userOfCookies(): Promise<string | undefined> {
  return (await cookies()).get("user")?.value;
}
