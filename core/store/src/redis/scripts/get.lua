#!lua flags=no-writes
-- Returns the values of keys, nil where there is none.
--
-- KEYS: values of tables (hashes). ARGV: for each key the index of its table, and the key.

local found = {}
for at = 1, #ARGV, 2 do
  found[(at + 1) / 2] = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
end
return found
