#!lua flags=allow-oom
-- Extends the lease of a node, or ends it. A node that shares no version of the protocol between nodes
-- with another one is refused.
--
-- KEYS: 1 nodes, by the end of their lease. 2 hash: their versions, as "oldest newest release".
-- ARGV: 1 node, 2 lifetime of the lease in ms, "0" to end it, or "-1" to ask only, 3 oldest and 4 newest
-- version that the node speaks, 5 its release.
-- Returns "present", how many nodes there are, and the newest version that all of them speak. Or
-- "refused" and a node without a version in common, its oldest and newest version, and its release.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local spoken = {}
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  spoken[all[i]] = all[i + 1]
end
local oldest, newest = tonumber(ARGV[3]), tonumber(ARGV[4])
local agreed = newest
local nodes = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
for _, node in ipairs(nodes) do
  -- The first release with a lease names no versions.
  local first, last, release = string.match(spoken[node] or '', '^(%d+) (%d+) (%S+)$')
  first, last, release = first or '1', last or '1', release or '0.1.0'
  if node ~= ARGV[1] then
    if ARGV[2] ~= '0' and (tonumber(first) > newest or tonumber(last) < oldest) then
      return {'refused', node, first, last, release}
    end
    agreed = math.min(agreed, tonumber(last))
  end
  spoken[node] = nil
end
if ARGV[2] ~= '-1' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
  for node in pairs(spoken) do
    redis.call('HDEL', KEYS[2], node)
  end
end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
elseif ARGV[2] ~= '-1' then
  -- This clock was set back, or that of the server before was ahead: such leases last for one lifetime
  -- more. The nodes that are there extend them meanwhile.
  local latest = string.format('%.0f', now + ARGV[2])
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. latest, '+inf')) do
    redis.call('ZADD', KEYS[1], latest, node)
  end
  redis.call('ZADD', KEYS[1], latest, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return {'present', tostring(redis.call('ZCARD', KEYS[1])), string.format('%.0f', agreed)}
