/** Channels page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./channels.css";

/** The page. */
export function ChannelsPage(): ReactElement {
  return (
    <>
      <PageHead title="Channels" />
    </>
  );
}
