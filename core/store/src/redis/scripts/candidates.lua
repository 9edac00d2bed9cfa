#!lua flags=allow-oom
-- Extends the candidacy of a node, or ends it, and returns all candidates.
--
-- KEYS: 1 candidates by the end of their lease, 2 the shards of each.
-- ARGV: 1 node, 2 lifetime of the lease in ms, or "0" to end it, 3 the shards that it may own, one a line.
-- Returns for each candidate its name and its shards.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(number)
  return string.format('%.0f', number)
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now))) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('HDEL', KEYS[2], node)
end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  -- This clock was set back, or that of the server before was ahead: such leases last for one lifetime
  -- more. The nodes that are there extend them meanwhile.
  local latest = text(now + ARGV[2])
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. latest, '+inf')) do
    redis.call('ZADD', KEYS[1], latest, node)
  end
  redis.call('ZADD', KEYS[1], latest, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return redis.call('HGETALL', KEYS[2])
