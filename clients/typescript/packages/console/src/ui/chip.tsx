/** Chips: the state of a thing in one word. While the connection is lost they say that they are old. */
import type { ReactElement, ReactNode } from "react";
import { useOld } from "../lib/session.ts";
import { Hint } from "./hint.tsx";

/** The meaning of a colour. Colour is never the only sign: the word says the same. */
export type Tone = "up" | "warn" | "bad" | "plain" | "accent";

/** Props of a `Chip`. */
export interface ChipProps {
  readonly tone?: Tone;
  readonly children: ReactNode;
  /** The meaning of the word. */
  readonly hint?: string | undefined;
  /** Whether the chip is about the server's data, and old without a connection. The default. */
  readonly ages?: boolean;
}

/** A chip. */
export function Chip({ tone = "plain", hint, ages = true, children }: ChipProps): ReactElement {
  const isOld = useOld() && ages;
  const className = `chip ${isOld ? "plain old" : tone}`;
  const word = (
    <>
      {isOld && <span>was </span>}
      {isOld && typeof children === "string" ? `${children.charAt(0).toLowerCase()}${children.slice(1)}` : children}
    </>
  );
  return hint === undefined ? (
    <span className={className}>{word}</span>
  ) : (
    <Hint text={hint} className={className}>
      {word}
    </Hint>
  );
}
