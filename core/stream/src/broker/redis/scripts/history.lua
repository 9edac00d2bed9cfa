#!lua flags=allow-oom
-- Reads a page of a channel's history, oldest first.
--
-- KEYS: 1 metadata, 2 history, 3 fresh epoch of the partition, unless ARGV names it.
-- ARGV: 1 the seq after which to read, or "newest" for the newest entries, 2 entries at most,
--   3 bytes at which reading stops, 4 a random epoch, 5 lifetime of the fresh epoch in ms,
--   6 "personal" if an unknown channel has no epoch that can be resumed, 7 "", or in a cluster the fresh
--   epoch.
-- Returns epoch, seq, the time in ms, then for each entry its id, its payload and its mark.

local meta = redis.call('HMGET', KEYS[1], 'e', 's')
local epoch, seq = meta[1], meta[2]
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
if not epoch then
  if ARGV[6] == 'personal' then
    return { ARGV[4], '0', now }
  end
  local fresh = ARGV[7] ~= '' and ARGV[7] or KEYS[3]
  epoch = redis.call('GET', fresh)
  if not epoch then
    epoch = ARGV[4]
    redis.call('SET', fresh, epoch, 'PX', ARGV[5])
  end
  return { epoch, '0', now }
end
local result, most, limit = { epoch, seq, now }, tonumber(ARGV[2]), tonumber(ARGV[3])
if most == 0 then
  return result
end
local function append(entry)
  local fields = entry[2]
  local at = #result
  result[at + 1], result[at + 2], result[at + 3] = entry[1], fields[2], fields[4]
  return #fields[2]
end
if ARGV[1] == 'newest' then
  local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[2])
  for at = #entries, 1, -1 do
    append(entries[at])
  end
  return result
end
local after, bytes, count = '(' .. ARGV[1], 0, 0
while count < most and bytes < limit do
  local part = math.min(most - count, 32)
  local entries = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', part)
  for _, entry in ipairs(entries) do
    local length = #entry[2][2]
    if count > 0 and bytes + length > limit then
      return result
    end
    bytes, count, after = bytes + append(entry), count + 1, '(' .. entry[1]
  end
  if #entries < part then
    break
  end
end
return result
