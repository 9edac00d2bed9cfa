/** Title of the window: the page, the unread notifications, and whether all that is shown is old. */
import { useEffect } from "react";

const parts = { page: "", unread: 0, isOld: false };

function show(): void {
  const { page, unread, isOld } = parts;
  document.title = `${isOld ? "Offline · " : ""}${unread > 0 ? `(${String(unread)}) ` : ""}${page === "" ? "" : `${page} · `}Tidewire`;
}

/** Sets a part of the title while the component is shown. */
export function useTitlePart<Name extends keyof typeof parts>(name: Name, value: (typeof parts)[Name]): void {
  useEffect(() => {
    parts[name] = value;
    show();
  }, [name, value]);
}
