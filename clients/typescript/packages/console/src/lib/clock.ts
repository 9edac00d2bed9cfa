/** Clock: the time of the server, for ages that grow while the page is shown. */
import { useEffect, useState } from "react";
import { currentSession } from "./session.ts";

/** The server's time, in milliseconds since the Unix epoch. */
export function serverNow(): number {
  return Date.now() + currentSession().client.clockOffsetMs;
}

/** The server's time. The component renders again every `everyMs` while the page is visible. */
export function useNow(everyMs = 1_000): number {
  const [now, setNow] = useState(serverNow);
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) {
        setNow(serverNow());
      }
    }, everyMs);
    return () => {
      clearInterval(timer);
    };
  }, [everyMs]);
  return now;
}
