/** The signed-in user. This example trusts a cookie: use your own session here. */
export function userOf(request: Request): string | undefined {
  return /(?:^|;\s*)user=([\w-]{1,64})(?:;|$)/.exec(request.headers.get("cookie") ?? "")?.[1];
}
