#!lua
-- Publishes a batch of one channel: gives each publication its seq, keeps it in the history, and
-- fans the batch out to all nodes. Nothing of it happens, or everything.
--
-- KEYS: 1 metadata, 2 history, 3 fresh epoch of the partition, unless ARGV names it, 4… idempotency keys, then the lease
--   of the engine if there is a term, or its fence.
-- ARGV: 1 shard channel, 2 node, 3 number of the write, 4 and 5 the highest position that the
--   node has seen (epoch, seq), 6 a random epoch, 7 history size, 8 lifetime of the history,
--   9 of the metadata, 10 of the fresh epoch, 11 of idempotency keys (all in ms), 12 mode, 13 slot
--   of the write, 14 and 15 slot and number of the write that must have come before ("" if none),
--   16 term of the engine that publishes ("" if none), 17 "", or in a cluster the fresh epoch: there a
--   lease is in another slot, and its fence has the newest term that published here or was raised, 18 "", or "named" if
--   the batch is to name this server of a cluster, 19 number of publications n, then n payloads, then for each
--   idempotency key the index of its publication and the fingerprint of its body.
-- Returns "unknown", "full", "fenced" (another node owns the engine by now), "early" (the write
--   before has not been done, so this one must wait), or
--   "<1 if the channel is new> <epoch> <seq of the first>" and, with
--   idempotency keys, for each publication "+", "!" (the key was used with another body) or
--   "<epoch>:<seq>" (the key was used before). If the batch is kept, and pub/sub was refused, the error follows
--   in a second line: the nodes find the batch when they compare their positions.
--
-- Numbers in Lua are doubles. A seq is therefore a decimal string everywhere.

-- Adds a small number to a decimal string.
local function add(seq, count)
  if #seq < 15 then
    return string.format('%.0f', tonumber(seq) + count)
  end
  local high, low = tonumber(string.sub(seq, 1, -15)), tonumber(string.sub(seq, -14)) + count
  if low >= 1e14 then
    high, low = high + 1, low - 1e14
  end
  return string.format('%.0f%014.0f', high, low)
end

local function is_less(seq, other)
  return #seq < #other or (#seq == #other and seq < other)
end

-- A node has several writes under way on a channel, each in a slot of its own.
local function field(slot)
  return 'w:' .. ARGV[2] .. (slot == '0' and '' or '+' .. slot)
end

local writer = field(ARGV[13])
local meta = redis.call('HMGET', KEYS[1], 'e', 's', 't', writer, field(ARGV[14]))
local epoch, seq, time, write, previous = meta[1], meta[2], meta[3], meta[4], meta[5]
if write then
  -- A node repeats a write when it has lost the answer.
  local number, answer = string.match(write, '^(%d+) %d+ (.*)$')
  if number == ARGV[3] then
    return answer
  end
end
if ARGV[14] ~= '' and string.match(previous or '', '^%d+') ~= ARGV[15] then
  return 'early'
end

local last_key = #KEYS
if ARGV[16] ~= '' then
  local known = redis.call('HGET', KEYS[last_key], 'term')
  if known ~= ARGV[16] then
    local function number(term)
      return string.match(term or '', '^%d+') or '0'
    end
    if ARGV[17] == '' or not is_less(number(known), number(ARGV[16])) then
      return 'fenced'
    end
    redis.call('HSET', KEYS[last_key], 'term', ARGV[16])
  end
  last_key = last_key - 1
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- A clock that is set back does not set the channel's time back.
local before = tonumber(time or 0)
if before > now then
  now = before
end
local stamp = string.format('%.0f', now)

local mode, is_new = ARGV[12], 0
if not epoch then
  if mode == 'known' then
    return 'unknown'
  elseif mode == 'existing' then
    return 'full'
  end
  local fresh = ARGV[17] ~= '' and ARGV[17] or KEYS[3]
  epoch = redis.call('GET', fresh)
  if not epoch then
    epoch = ARGV[6]
    redis.call('SET', fresh, epoch, 'PX', ARGV[10])
  end
  if epoch == ARGV[4] and ARGV[5] ~= '0' then
    -- The metadata are gone before their time.
    epoch = ARGV[6]
  end
  seq, is_new = '0', 1
  redis.call('DEL', KEYS[2])
elseif epoch == ARGV[4] and is_less(seq, ARGV[5]) then
  -- This server has lost publications that a node has seen.
  epoch, seq = ARGV[6], '0'
  redis.call('DEL', KEYS[2])
end

local count, first = tonumber(ARGV[19]), add(seq, 1)
local payloads, lengths, outcomes, keys = {}, {}, {}, {}
for at = 4, last_key do
  local index = 19 + count + 2 * (at - 4) + 1
  keys[tonumber(ARGV[index])] = { KEYS[at], ARGV[index + 1] }
end
local size, mark = tonumber(ARGV[7]), stamp .. ' ' .. ARGV[2] .. ':' .. ARGV[3]
for index = 1, count do
  local key, outcome = keys[index], '+'
  if key then
    local known = redis.call('GET', key[1])
    if known then
      local body, position = string.match(known, '^(%x+) (.*)$')
      outcome = body == key[2] and position or '!'
    end
  end
  if outcome == '+' then
    seq = add(seq, 1)
    local payload = ARGV[19 + index]
    payloads[#payloads + 1], lengths[#lengths + 1] = payload, #payload
    if size > 1 then
      redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], seq .. '-0', 'd', payload, 'm', mark)
    end
    if key then
      local record = key[2] .. ' ' .. epoch .. ':' .. seq
      redis.call('SET', key[1], record, 'PX', ARGV[11])
    end
  end
  outcomes[index] = outcome
end
if size == 1 and #payloads > 0 then
  redis.call('XADD', KEYS[2], 'MAXLEN', '1', seq .. '-0', 'd', payloads[#payloads], 'm', mark)
end

local answer = is_new .. ' ' .. epoch .. ' ' .. first
if last_key > 3 then
  answer = answer .. ' ' .. table.concat(outcomes, ' ')
end
local record = ARGV[3] .. ' ' .. stamp .. ' ' .. answer
redis.call('HSET', KEYS[1], 'e', epoch, 's', seq, 't', stamp, writer, record)
-- Expiry is put off at steps of a sixteenth of the lifetime.
local function put_off(key, lifetime)
  local step = math.max(1, math.floor(lifetime / 16))
  if is_new == 1 or first == '1' or math.floor(now / step) ~= math.floor(before / step) then
    redis.call('PEXPIRE', key, string.format('%.0f', lifetime + step))
  end
end
if mode ~= 'known' then
  put_off(KEYS[1], tonumber(ARGV[9]))
end
put_off(KEYS[2], tonumber(ARGV[8]))
if not write and redis.call('HLEN', KEYS[1]) > 32 then
  -- Nodes that ended long ago do not repeat anything.
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    local wrote = string.match(all[at + 1], '^%d+ (%d+) ')
    if string.sub(all[at], 1, 2) == 'w:' and (not wrote or now - wrote > 600000) then
      redis.call('HDEL', KEYS[1], all[at])
    end
  end
end
if #payloads > 0 then
  local header = { epoch, first, stamp, ARGV[2] .. ':' .. ARGV[3], table.concat(lengths, ',') }
  if ARGV[18] ~= '' then
    -- Subscribers of other servers of the shard hear the batch too, over the bus of the cluster. A server that refuses
    -- the question names nobody.
    local server = redis.pcall('CLUSTER', 'MYID')
    header[6] = type(server) == 'string' and server or nil
  end
  local message = table.concat(header, ' ') .. '\n' .. table.concat(payloads)
  local told = redis.pcall('SPUBLISH', ARGV[1], message)
  if type(told) == 'table' and told.err then
    if ARGV[2] == 'probe' or string.find(told.err, 'non local key', 1, true) then
      -- A probe is to fail. A slot that moves has the batch written again, which it knows by its number.
      return told
    end
    return answer .. '\n' .. told.err
  end
end
return answer
