#!lua flags=allow-oom
-- Takes, extends, ends or reads a lease: that of a store, or of an engine.
--
-- KEYS: 1 lease.
-- ARGV: 1 node, 2 term that this node has or had ("" if none), 3 lifetime in ms, 4 mode: "take" (a lease
--   that has ended), "hold" (extends the term of this node), "again" (a new term, also in place of
--   that of this node), "end", "look", 5 random digits, 6 number of the newest term that the node
--   knows of, 7 "1" if the node should be the owner: with "take" and "look" it asks the owner to end its
--   lease, and for a second no other node takes it, 8 ms that the lease must have been free before "take"
--   takes it.
-- Returns whether the node has the lease ("1" or "0"), the term, its node, the remaining ms, the number
--   of commits, the number of commits when the term after ARGV[2] began ("" if not known), and "1" if
--   the node has the lease and another one asks for it.
--
-- A term is "<number>-<digits>". The digits tell it from one of the same number, which a server that
-- has lost its data would give again. Times are those of this server.
--
-- The field "fenced" is the number of the newest fence, which the broker has found later than the term: this
-- server has lost terms, and "hold" takes one after it.

local lease = redis.call('HMGET', KEYS[1], 'term', 'node', 'until', 'commits', 'wish', 'fenced')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local term, node = lease[1] or '', lease[2] or ''
local ends, commits = tonumber(lease[3] or '0'), lease[4] or '0'
local mode, mine, is_mine = ARGV[4], ARGV[2], ARGV[2] ~= '' and ARGV[2] == term

local function number(text)
  return tonumber(string.match(text, '^(%d+)') or '0')
end

-- This clock was set back, or that of the server before was ahead: the lease lasts for one lifetime more,
-- and not until the end that it had by the other time. An owner that is there extends it meanwhile.
local latest = now + tonumber(ARGV[3])
if ends > latest then
  ends = latest
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends))
end

-- A wish is "<until> <node>". One of a clock that was ahead does not count.
local wish_ends, wish_node = string.match(lease[5] or '', '^(%d+) (.*)$')
wish_ends = tonumber(wish_ends or '0')
local is_wanted = wish_ends > now and wish_ends <= now + 1000 and wish_node ~= ARGV[1]
if ARGV[7] == '1' and (mode == 'take' or mode == 'look') then
  redis.call('HSET', KEYS[1], 'wish', string.format('%.0f %s', now + 1000, ARGV[1]))
elseif mode == 'take' and is_wanted then
  mode = 'look'
end

local fenced = tonumber(lease[6] or '0')
if mode == 'hold' and is_mine and fenced >= number(term) then
  mode = 'again'
end
local is_free = ends <= now
if (mode == 'take' and ends + tonumber(ARGV[8]) <= now) or (mode == 'again' and (is_free or is_mine)) then
  local last = math.max(number(term), tonumber(ARGV[6]), fenced)
  if last == 0 then
    -- Nobody knows of a term. There may have been some, of which fences are left in other slots.
    last = tonumber(clock[1])
  end
  local next = last + 1
  term, node, ends = string.format('%.0f-%s', next, ARGV[5]), ARGV[1], now + tonumber(ARGV[3])
  redis.call('HSET', KEYS[1], 'term', term, 'node', node, 'until', string.format('%.0f', ends),
    string.format('b%.0f', next), commits)
  -- Nobody asks for the beginning of a term that ended this long ago.
  redis.call('HDEL', KEYS[1], string.format('b%.0f', next - 16))
  is_mine = true
elseif mode == 'hold' and is_mine then
  ends = now + tonumber(ARGV[3])
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends))
elseif mode == 'end' and is_mine then
  ends, is_mine = now, false
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends))
else
  is_mine = is_mine and mode == 'hold'
end
local began = ''
if mine ~= '' and not is_mine then
  began = redis.call('HGET', KEYS[1], string.format('b%.0f', number(mine) + 1)) or ''
end
return { is_mine and '1' or '0', term, node, string.format('%.0f', math.max(0, ends - now)), commits, began,
  is_mine and is_wanted and '1' or '0' }
