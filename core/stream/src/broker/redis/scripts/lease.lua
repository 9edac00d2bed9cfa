#!lua flags=allow-oom
-- Extends the lease of a node, or ends it.
--
-- KEYS: 1 nodes, by the end of their lease.
-- ARGV: 1 node, 2 lifetime of the lease in ms, or "0" to end it.
-- Returns how many nodes there are.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  -- This clock was set back, or that of the server before was ahead: such leases last for one lifetime
  -- more. The nodes that are there extend them meanwhile.
  local latest = string.format('%.0f', now + ARGV[2])
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. latest, '+inf')) do
    redis.call('ZADD', KEYS[1], latest, node)
  end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return tostring(redis.call('ZCARD', KEYS[1]))
