#!/usr/bin/env python3
"""Sends a notification over gRPC as a back end, receives it as its user, and lists the inbox.

    cargo run --release                                          # a server, in another terminal
    export TOKEN="$(cargo run --release -- token --user ada)"    # a token of the user
    pip install -r requirements.txt && python generate.py        # in this folder
    PYTHONPATH=stubs python notifications.py
    PYTHONPATH=stubs python notifications.py 127.0.0.1:8080 ada

A back end on the server's machine needs no token to send. From elsewhere, set SERVICE_TOKEN to a
token with the scope `service`. The token is valid for an hour.
"""

import os
import sys
import uuid

import grpc
from tidewire import v1

# Dead links are found by pings, as the server's other clients do.
OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"
    user = sys.argv[2] if len(sys.argv) > 2 else "ada"
    if not os.environ.get("TOKEN"):
        sys.exit(f"TOKEN is not set, expected a token of {user}: see the first lines of this file")
    as_user = bearer(os.environ["TOKEN"])
    as_service = bearer(os.environ.get("SERVICE_TOKEN"))
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        streams, notifications = v1.StreamServiceStub(channel), v1.NotifyServiceStub(channel)

        # The stream begins with `welcome` and `subscribed`. From then on nothing is missed.
        wanted = v1.SubscribeRequest(channels=[v1.ChannelSubscription(channel=f"user:{user}")])
        messages = streams.Subscribe(wanted, metadata=as_user)
        for message in messages:
            if message.WhichOneof("data") == "subscribed":
                break
        print(f"subscribed to user:{user}")

        # The key makes a repeated request, after a lost connection, harmless.
        request = v1.NotifyRequest(
            user=user,
            notification=v1.Notification(
                type=v1.NOTIFICATION_TYPE_PAYMENT_RECEIVED,
                title="Payment received",
                body="0.5 ETH from Grace",
                data=b'{"order": 7}',
                priority=v1.PRIORITY_HIGH,
            ),
            idempotency_key=str(uuid.uuid4()),
        )
        sent = notifications.Notify(request, metadata=as_service, timeout=10)
        print(f"sent to {sent.recipients} inbox")

        for message in messages:
            # Later servers send more types: unknown ones are ignored.
            if message.WhichOneof("data") == "notification":
                print(f"received: {message.notification.title}, seq {message.seq}")
                break
        messages.cancel()

        page = notifications.ListNotifications(
            v1.ListNotificationsRequest(limit=10), metadata=as_user, timeout=10
        )
        for item in page.items:
            print(f"listed: {item.title}: {item.body} {item.data.decode()}")
        print(f"unread: {page.unread_count}")

        # A refusal is a status with a text.
        try:
            empty = v1.NotifyRequest(user=user, notification=v1.Notification())
            notifications.Notify(empty, metadata=as_service, timeout=10)
        except grpc.RpcError as error:
            print(f"refused: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        # No server, or a token that it refuses.
        sys.exit(f"{error.code().name}: {error.details()}")
