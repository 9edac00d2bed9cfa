/** A command that the reader types on the server's machine. */
import type { ReactElement } from "react";
import { useCommandOptions } from "../lib/command.ts";

/** `tidewire` with these arguments, and the server's configuration file. Where that is not known, the reader is told. */
export function Command({ args }: { readonly args: string }): ReactElement {
  const options = useCommandOptions();
  return (
    <>
      <code>
        tidewire {args}
        {options}
      </code>
      {options === undefined && (
        <>
          {" "}
          (with the server’s <code>--config</code>, if it has one)
        </>
      )}
    </>
  );
}
