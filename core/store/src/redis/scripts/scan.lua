#!lua flags=no-writes
-- Returns a page of entries in the order of their keys: key and value of each, after "1" if there may be
-- more of them, else "0".
--
-- KEYS: 1 values (hash), 2 keys in order (sorted set).
-- ARGV: 1 and 2 bounds of ZRANGEBYLEX, 3 entries at most, 4 bytes at which the page ends.

local most, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local page, count, bytes, from = { '0' }, 0, 0, ARGV[1]
while count < most do
  local part = math.min(most - count, 256)
  local keys = redis.call('ZRANGEBYLEX', KEYS[2], from, ARGV[2], 'LIMIT', 0, part)
  if #keys == 0 then
    return page
  end
  local values = redis.call('HMGET', KEYS[1], unpack(keys))
  for at = 1, #keys do
    page[#page + 1], page[#page + 2] = keys[at], values[at] or ''
    bytes = bytes + #keys[at] + #(values[at] or '')
    count = count + 1
    if bytes >= limit then
      page[1] = '1'
      return page
    end
  end
  if #keys < part then
    return page
  end
  from = '(' .. keys[#keys]
end
page[1] = '1'
return page
