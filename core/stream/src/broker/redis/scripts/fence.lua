#!lua flags=allow-oom
-- Raises the fence of a lease to a newer term: from now on, no earlier one publishes here.
--
-- KEYS: 1 fence.
-- ARGV: 1 term, "<number>-<digits>".
-- Returns "1", or the term that is known if it is another one of this number, or a later one.

local function number(term)
  return string.match(term or '', '^%d+') or '0'
end

local function is_less(seq, other)
  return #seq < #other or (#seq == #other and seq < other)
end

local known = redis.call('HGET', KEYS[1], 'term')
if known == ARGV[1] then
  return '1'
elseif not is_less(number(known), number(ARGV[1])) then
  return known
end
redis.call('HSET', KEYS[1], 'term', ARGV[1])
return '1'
