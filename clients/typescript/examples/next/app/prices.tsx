"use client";
import type { PriceUpdate } from "@tidewire/client";
import { usePriceStream } from "@tidewire/react";
import type { ReactElement } from "react";

export function Prices({ symbols, initial }: { readonly symbols: readonly string[]; readonly initial: readonly PriceUpdate[] }): ReactElement {
  const { prices, error } = usePriceStream(symbols, { initial });
  return (
    <>
      <table>
        <tbody>
          {symbols.map((symbol) => (
            <tr key={symbol}>
              <th>{symbol}</th>
              <td>{prices.get(symbol)?.price ?? "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {error && <p role="alert">{error.message}</p>}
    </>
  );
}
