/** The user whom commands and snippets name. */
import { useSession } from "./session.ts";
import { isSample, useSources } from "./sources.ts";

/** Returns the user who signed in. Without one it is the user of the sample, or a made-up one. */
export function useDevelopmentUser(): string {
  const { user } = useSession();
  const { data } = useSources();
  return user ?? (data && isSample(data) ? "sample" : "ada");
}
