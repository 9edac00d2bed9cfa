#!lua
-- Writes a group of batches: all of it, or nothing.
--
-- KEYS: 1 lease, then for each table its values (hash) and its keys in order (sorted set).
-- ARGV: 1 term, 2 number of the commit ("0" to write nothing), then writes, each with a letter and the number of its table:
--   "p<table>" key value, "d<table>" key, "r<table>" from to (both as bounds of ZRANGEBYLEX).
-- Returns "done", also if the commit was done before; "other" if the term is not the newest one; or
--   "behind <commits>" if this server lacks commits of before.

local lease = redis.call('HMGET', KEYS[1], 'term', 'commits')
if lease[1] ~= ARGV[1] then
  return 'other'
end
local commits, number = tonumber(lease[2] or '0'), tonumber(ARGV[2])
if commits >= number then
  if number > 0 then
    -- A write, so that WAIT on this connection waits for what was written on another one.
    redis.call('HSET', KEYS[1], 'commits', lease[2])
  end
  return 'done'
elseif commits < number - 1 then
  return string.format('behind %.0f', commits)
end
local at, call = 3, redis.call
while at <= #ARGV do
  local kind, index = string.byte(ARGV[at]), tonumber(string.sub(ARGV[at], 2))
  local values, order = KEYS[2 * index], KEYS[2 * index + 1]
  if kind == 112 then
    if call('HSET', values, ARGV[at + 1], ARGV[at + 2]) == 1 then
      call('ZADD', order, 0, ARGV[at + 1])
    end
    at = at + 3
  elseif kind == 100 then
    if call('HDEL', values, ARGV[at + 1]) == 1 then
      call('ZREM', order, ARGV[at + 1])
    end
    at = at + 2
  else
    repeat
      -- Lua passes some thousand arguments at once.
      local keys = call('ZRANGEBYLEX', order, ARGV[at + 1], ARGV[at + 2], 'LIMIT', 0, 1000)
      if #keys > 0 then
        call('HDEL', values, unpack(keys))
        call('ZREM', order, unpack(keys))
      end
    until #keys < 1000
    at = at + 3
  end
end
call('HSET', KEYS[1], 'commits', ARGV[2])
return 'done'
