import type { ReactElement } from "react";
import { Chart } from "./chart.tsx";

export default function Page(): ReactElement {
  return (
    <main>
      <h1>Visits</h1>
      <Chart />
    </main>
  );
}
