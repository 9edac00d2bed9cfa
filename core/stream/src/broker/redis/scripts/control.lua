#!lua flags=allow-oom
-- Spreads a revocation to all nodes, and keeps it for those that come later.
--
-- KEYS: 1 hash of revocations, 2 their version.
-- ARGV: 1 shard channel, 2 message, 3 the revocation's field, 4 its time (until), 5 its expiry (both
--   in ms, as decimal strings without a sign), 6 a random step of the version: one that was counted from
--   1 would be the same again after as many revocations, when Redis has lost those before.
-- Returns the version.

local function is_less(number, other)
  return #number < #other or (#number == #other and number < other)
end

local version = redis.call('GET', KEYS[2]) or '0'
local known = redis.call('HGET', KEYS[1], ARGV[3])
local until_ms, expires_ms = ARGV[4], ARGV[5]
if known then
  local known_until, known_expires = string.match(known, '^(%d+) (%d+)$')
  if known_until and is_less(until_ms, known_until) then
    until_ms = known_until
  end
  if known_expires and is_less(expires_ms, known_expires) then
    expires_ms = known_expires
  end
end
local merged = until_ms .. ' ' .. expires_ms
if merged ~= known then
  redis.call('HSET', KEYS[1], ARGV[3], merged)
  redis.call('INCRBY', KEYS[2], ARGV[6])
  version = redis.call('GET', KEYS[2])
end
redis.call('SPUBLISH', ARGV[1], ARGV[2])
return version
