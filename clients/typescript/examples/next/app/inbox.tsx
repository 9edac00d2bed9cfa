"use client";
import { useNotifications } from "@tidewire/react";
import { type ReactElement, useState } from "react";

export function Inbox(): ReactElement {
  const { notifications, unreadCount, markAsRead, markAllRead, dismiss } = useNotifications();
  const [fault, setFault] = useState("");
  const send = async (): Promise<void> => {
    const response = await fetch("/api/notify", {
      method: "POST",
      headers: { "idempotency-key": crypto.randomUUID() },
      body: JSON.stringify({ title: `Hello number ${String(notifications.length + 1)}` }),
    });
    const { message = `status ${String(response.status)}` } = (await response.json().catch(() => ({}))) as { message?: string };
    setFault(response.ok ? "" : `Nobody is notified: ${message}`);
  };
  return (
    <section aria-label="Inbox">
      <h2>Inbox ({unreadCount})</h2>
      <button onClick={() => void send()}>Notify me</button>
      <button onClick={() => void markAllRead()}>Mark all read</button>
      {fault && <p role="alert">{fault}</p>}
      <ul>
        {notifications.map(({ id, title, read }) => (
          <li key={id} data-read={read}>
            {title} {!read && <button onClick={() => void markAsRead(id)}>Read</button>} <button onClick={() => void dismiss(id)}>Dismiss</button>
          </li>
        ))}
      </ul>
    </section>
  );
}
