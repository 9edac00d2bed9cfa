"use client";
import { useChannel } from "@tidewire/react";
import { type FormEvent, type ReactElement, useState } from "react";

interface Step {
  readonly order: string;
  readonly state: string;
  readonly confirmations: number;
  readonly required: number;
  readonly reason?: string;
}

/** Shows the newest step of the user's payments, and starts to follow one. */
export function Payment({ user }: { readonly user: string }): ReactElement {
  const { data, error } = useChannel<Step>(`payments:${user}`);
  const [fault, setFault] = useState("");
  const step = data?.type === "message" ? data.data : undefined;
  const pay = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const body = JSON.stringify({ order: form.get("order"), chain: Number(form.get("chain")), hash: form.get("hash") });
    void fetch("/api/payments", { method: "POST", body }).then(async (response) => {
      const { message = `status ${String(response.status)}` } = (await response.json().catch(() => ({}))) as { message?: string };
      setFault(response.ok ? "" : `The payment is not followed: ${message}`);
    });
  };
  return (
    <>
      <form onSubmit={pay}>
        <input name="order" aria-label="Order" defaultValue="order-1" />
        <input name="chain" aria-label="Chain" defaultValue="31337" />
        <input name="hash" aria-label="Transaction" placeholder="0x…" />
        <button>Follow</button>
      </form>
      <p role="status">{step ? `${step.order}: ${step.state}, ${String(step.confirmations)} of ${String(step.required)} confirmations` : "No payment yet"}</p>
      {(fault || error) && <p role="alert">{fault || error?.message}</p>}
    </>
  );
}
