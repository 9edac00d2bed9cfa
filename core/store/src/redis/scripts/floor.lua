#!lua flags=no-writes
-- Returns for each key the entry with the greatest key up to it: key and value, both nil where there
-- is none.
--
-- KEYS: 1 values (hash), 2 keys in order (sorted set). ARGV: keys, as bounds of ZREVRANGEBYLEX.

local found = {}
for at = 1, #ARGV do
  local key = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[at], '-', 'LIMIT', 0, 1)[1]
  found[2 * at - 1] = key or false
  found[2 * at] = key and redis.call('HGET', KEYS[1], key) or false
end
return found
