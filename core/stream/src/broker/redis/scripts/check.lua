#!lua flags=allow-oom
-- Returns the newest position of a channel, and compares it with the newest that a node has seen.
-- A server that has lost what the node has seen, or has something else in its place, begins a new
-- epoch and tells all nodes.
--
-- A personal channel begins a new epoch in each term of the shared store too: the owner of the term
-- before may have stored a notification and not published it, so no older position has all.
--
-- KEYS: 1 metadata, 2 history, 3 fresh epoch of the partition, unless ARGV names it, and of a personal channel 4 the lease of
--   the shared store.
-- ARGV: 1 shard channel, 2 and 3 the position that the node has seen (epoch, seq), 4 the mark of
--   its write or "", 5 a random epoch, 6 lifetime of the metadata, 7 of the fresh epoch (in ms),
--   8 mode: "read", "personal" (an unknown channel has no epoch that can be resumed), "create",
--   "restart" (begins a new epoch in any case), "renew" (the same, of a channel that is known), 9 "", or in a cluster the
--   fresh epoch.
-- Returns epoch and seq.

local function is_less(seq, other)
  return #seq < #other or (#seq == #other and seq < other)
end

local meta = redis.call('HMGET', KEYS[1], 'e', 's', 'g')
local epoch, seq, known_term = meta[1], meta[2], meta[3]
-- False without a shared store.
local term = KEYS[4] and redis.call('HGET', KEYS[4], 'term')
local mode, seen_epoch, seen_seq = ARGV[8], ARGV[2], ARGV[3]
local is_changed = mode == 'restart' or mode == 'renew'
if not epoch then
  if mode == 'personal' or mode == 'renew' then
    return { ARGV[5], '0' }
  end
  local fresh = ARGV[9] ~= '' and ARGV[9] or KEYS[3]
  epoch, seq = redis.call('GET', fresh), '0'
  if not epoch then
    epoch = ARGV[5]
    redis.call('SET', fresh, epoch, 'PX', ARGV[7])
  end
  is_changed = is_changed or (epoch == seen_epoch and seen_seq ~= '0')
  if mode == 'create' and not is_changed then
    redis.call('HSET', KEYS[1], 'e', epoch, 's', seq)
    redis.call('DEL', KEYS[2])
  elseif not is_changed then
    return { epoch, seq }
  end
elseif epoch == seen_epoch and seen_seq ~= '0' then
  is_changed = is_changed or is_less(seq, seen_seq)
  if not is_changed and ARGV[4] ~= '' then
    local entry = redis.call('XRANGE', KEYS[2], seen_seq, seen_seq)[1]
    if entry then
      local fields = entry[2]
      is_changed = string.match(fields[4], ' (.*)$') ~= ARGV[4]
    end
  end
end
-- Without a term nobody has a position: the channel was only published on so far.
is_changed = is_changed or (epoch and term and known_term and known_term ~= term)
if is_changed then
  epoch, seq = ARGV[5], '0'
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'e', epoch, 's', seq)
  local header = epoch .. ' 1 0 - '
  if ARGV[9] ~= '' then
    -- As batches of `publish.lua`.
    local server = redis.pcall('CLUSTER', 'MYID')
    header = header .. (type(server) == 'string' and ' ' .. server or '')
  end
  redis.call('SPUBLISH', ARGV[1], header .. '\n')
end
if term and known_term ~= term then
  -- As read-only, without effect.
  redis.pcall('HSET', KEYS[1], 'g', term)
end
redis.pcall('PEXPIRE', KEYS[1], ARGV[6])
return { epoch, seq }
