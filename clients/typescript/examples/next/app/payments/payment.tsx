"use client";
import { useChannel, useClient, useConnection } from "@tidewire/react";
import { type FormEvent, type ReactElement, useEffect, useState } from "react";

/** A step of a payment, as `lib/payments.ts` publishes it. */
type Step = {
  readonly order: string;
  readonly state: string;
  readonly confirmations: number;
  readonly required: number;
  readonly reason?: string;
};

/**
 * The newest step on a channel, `null` for none, and `undefined` until that is known. The channel itself has what comes from
 * now on. The step before is in its history, which is read once the channel is followed: a step that comes meanwhile is newer.
 */
function useNewestStep(channel: string): { readonly step: Step | null | undefined; readonly error: Error | undefined } {
  const client = useClient();
  const { status } = useConnection();
  const { data, error } = useChannel<Step>(channel);
  const [last, setLast] = useState<Step | null>();
  useEffect(() => {
    if (status === "connected") {
      const history = client.request("history", { channel, limit: 1 });
      // A connection that is lost meanwhile is followed by another one. A refusal is that of the channel.
      history.then(({ messages }) => setLast((messages[0]?.data as Step | undefined) ?? null), () => undefined);
    }
  }, [client, status, channel]);
  return { step: data?.type === "message" ? data.data : last, error };
}

/** Shows the newest step of the user's payments, and starts to follow one. */
export function Payment({ user }: { readonly user: string }): ReactElement {
  const { step, error } = useNewestStep(`payments:${user}`);
  const [fault, setFault] = useState("");
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
      <p role="status">{step ? `${step.order}: ${step.state}, ${String(step.confirmations)} of ${String(step.required)} confirmations` : step === null ? "No payment yet" : "Loading…"}</p>
      {(fault || error) && <p role="alert">{fault || error?.message}</p>}
    </>
  );
}
