"use client";
import { useNotifications } from "@tidewire/react";
import type { ReactElement } from "react";

export function Inbox(): ReactElement {
  const { notifications, unreadCount, markAsRead, markAllRead, dismiss } = useNotifications();
  const send = (): void => {
    void fetch("/api/notify", {
      method: "POST",
      headers: { "idempotency-key": crypto.randomUUID() },
      body: JSON.stringify({ title: `Hello number ${String(notifications.length + 1)}` }),
    });
  };
  return (
    <section aria-label="Inbox">
      <h2>Inbox ({unreadCount})</h2>
      <button onClick={send}>Notify me</button>
      <button onClick={() => void markAllRead()}>Mark all read</button>
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
