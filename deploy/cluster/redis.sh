#!/bin/sh
# Starts a Redis or a sentinel of compose.yaml:
#
#     redis.sh server|sentinel ADDRESS
#
# REDIS_PASSWORD is the password of the Tidewire servers, REDIS_INTERNAL_PASSWORD that of replicas, of sentinels and of
# the operator (`redis-cli --user admin`).
set -eu
umask 077
first=10.89.8.11 # the master of the first start; sentinels decide afterwards
cd "${DATA:-/data}"
from="${CONFIG:-/etc/tidewire}"

if [ "$1" = sentinel ]; then
  # Later starts use what the sentinel has learned.
  if [ ! -f sentinel.conf ]; then
    { cat "$from/sentinel.conf"; echo "sentinel auth-pass tidewire-redis $REDIS_INTERNAL_PASSWORD"; } >sentinel.new
    mv sentinel.new sentinel.conf
  fi
  exec redis-server sentinel.conf --sentinel --bind "$2" --protected-mode no
fi

# The rights of docs/cluster.md, those that a replica needs, and those that a sentinel needs.
cat >users.acl <<USERS
user default off
user tidewire on >$REDIS_PASSWORD ~tidewire:* &tidewire:* +@read +@write +@scripting +@pubsub +@connection +time +role +config|get
user admin on >$REDIS_INTERNAL_PASSWORD ~* &* +@all
user replica on >$REDIS_INTERNAL_PASSWORD +psync +replconf +ping
user sentinel on >$REDIS_INTERNAL_PASSWORD allchannels +multi +exec +ping +info +role +subscribe +publish +slaveof +config|rewrite +client|setname +client|kill +script|kill
USERS

# A sentinel writes `replicaof` into the file when it makes this server a replica or the master.
if [ -f redis.conf ]; then
  role="$(grep '^replicaof ' redis.conf || true)"
elif [ "$2" = "$first" ]; then
  role=
else
  role="replicaof $first 6379"
fi
cat "$from/redis.conf" - >redis.new <<OWN
bind $2
dir $PWD
aclfile $PWD/users.acl
masteruser replica
masterauth $REDIS_INTERNAL_PASSWORD
$role
OWN
mv redis.new redis.conf
exec redis-server redis.conf
