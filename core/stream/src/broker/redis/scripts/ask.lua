#!lua flags=allow-oom
-- Sends a question to one node, or to all.
--
-- KEYS: 1 nodes, by the end of their lease.
-- ARGV: 1 shard channel, 2 message, 3 the node that it is for, or "" for all.
-- Returns the nodes that it was sent to, with the one that asks. After them, how many heard it.

local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local nodes = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
if ARGV[3] ~= '' then
  local found = {}
  for _, node in ipairs(nodes) do
    if node == ARGV[3] then
      found[1] = node
    end
  end
  nodes = found
end
local heard = 0
if #nodes > 0 then
  heard = redis.call('SPUBLISH', ARGV[1], ARGV[2])
end
nodes[#nodes + 1] = string.format('%.0f', heard)
return nodes
