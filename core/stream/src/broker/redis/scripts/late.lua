#!lua flags=allow-oom
-- Tells a lease that fences are of a later term: the server of the lease has lost terms. Its owner then
-- takes one that is later than they are.
--
-- KEYS: 1 lease.
-- ARGV: 1 term of this node, 2 number of the later term.
-- Returns "1", or "0" if the lease is of another term: its owner finds out by itself.

local lease = redis.call('HMGET', KEYS[1], 'term', 'fenced')
if lease[1] ~= ARGV[1] then
  return '0'
end
if tonumber(lease[2] or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'fenced', ARGV[2])
end
return '1'
