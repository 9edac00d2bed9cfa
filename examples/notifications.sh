#!/usr/bin/env bash
# Notifications with curl: a back end sends them, and a user receives, reads and dismisses them.
#
#     cargo run --release                                          # a server, in another terminal
#     export TOKEN="$(cargo run --release -- token --user ada)"    # a token of the user
#     examples/notifications.sh
#     examples/notifications.sh http://127.0.0.1:8080 ada
#
# The token is valid for an hour. Make it in the server's folder, and with its `--config` if it has one.
#
# A back end on the server's machine needs no token. From elsewhere, set SERVICE_TOKEN to a token
# with the scope `service`.
set -euo pipefail
server="${1:-http://127.0.0.1:8080}" user="${2:-ada}"
: "${TOKEN:?expected a token of the user $user, see the first lines of this file}"
# Requests with the same idempotency key count once, so each run has keys of its own.
run="$(date +%s)-$$"

# rpc METHOD JSON [TOKEN]: calls a method. If it fails, prints the server's error.
rpc() {
  local token="${3:-}" response
  if ! response="$(curl -sS --fail-with-body -X POST "$server/v1/rpc/NotifyService/$1" ${token:+-H "authorization: Bearer $token"} -d "$2")"; then
    echo "$response" >&2
    return 1
  fi
  echo "$response"
}
back_end() { rpc "$1" "$2" "${SERVICE_TOKEN:-}"; }
as_user() { rpc "$1" "$2" "$TOKEN"; }

# event NAME: prints a stream up to the first event of this name. Its data is then in `data`.
event() {
  local line is_found=
  while IFS= read -r line; do
    echo "$line"
    [ "$line" != "event: $1" ] || is_found=1
    [ "${line#data: }" = "$line" ] || data="${line#data: }"
    [ -n "$line" ] || [ -z "$is_found" ] || return 0
  done
  # A refusal is one line of JSON without an end. Without a server, curl has printed the reason.
  echo "no event \`$1\` arrived from $server${line:+: $line}" >&2
  return 1
}

# id_in JSON: prints the id.
id_in() { sed -E 's/.*"id":"([^"]+)".*/\1/' <<<"$1"; }

echo "# the user's connection; $user receives notifications on it without asking"
exec 3< <(exec curl -sSN --max-time 60 "$server/v1/sse" -H "authorization: Bearer $TOKEN")
stream=$!
trap 'kill "$stream" 2>/dev/null || true' EXIT
event welcome <&3
owner="$(sed -E 's/.*"userId":"([^"]+)".*/\1/' <<<"$data")"
if [ "$owner" != "$user" ]; then
  echo "TOKEN is of the user $owner, expected one of $user" >&2
  exit 1
fi

echo "# send; a repetition with the same key notifies once"
payment="{\"user\":\"$user\",\"notification\":{\"type\":\"payment_received\",\"title\":\"Payment received\",\"body\":\"0.1 ETH\",\"priority\":\"high\"},\"idempotencyKey\":\"payment-$run\"}"
sent="$(back_end Notify "$payment")"
echo "$sent"
back_end Notify "$payment"

echo "# the user's connection receives it"
event notification <&3

echo "# several at once, each with a result of its own"
back_end NotifyBatch "{\"notifications\":[
  {\"user\":\"$user\",\"notification\":{\"type\":\"marketplace_update\",\"title\":\"New offer\",\"priority\":\"low\"}},
  {\"user\":\"$user\",\"notification\":{\"type\":\"marketplace_update\",\"title\":\"\"}}]}"

echo "# schedule for an hour later, and cancel it"
later=$((($(date +%s) + 3600) * 1000))
back_end Notify "{\"user\":\"$user\",\"notification\":{\"type\":\"subscription_renewal\",\"title\":\"Your plan renews\"},\"notBefore\":$later,\"idempotencyKey\":\"renewal-$run\"}"
back_end CancelScheduled "{\"idempotencyKey\":\"renewal-$run\"}"

echo "# broadcast to all users, and recall it"
broadcast="$(back_end Notify '{"everyone":true,"notification":{"type":"system_announcement","title":"Maintenance on Sunday"}}')"
echo "$broadcast"
back_end RecallBroadcast "{\"id\":\"$(id_in "$broadcast")\"}"

echo "# the user's inbox: a list, a count, and what the user does with it"
as_user ListNotifications '{"limit":2,"unreadOnly":true}'
as_user GetUnreadCount '{}'
as_user MarkRead "{\"ids\":[\"$(id_in "$sent")\"]}"
as_user MarkAllRead '{}'
as_user Dismiss "{\"ids\":[\"$(id_in "$sent")\"]}"

echo "# preferences: muted types, quiet hours; an empty document removes them"
as_user SetPreferences '{"preferences":{"mutedTypes":["marketplace_update"],"quietHours":{"start":"22:00","end":"07:00","timeZone":"Europe/Vienna"}}}'
as_user GetPreferences '{}'
as_user SetPreferences '{"preferences":{}}'
