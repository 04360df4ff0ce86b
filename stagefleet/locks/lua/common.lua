-- Common part of all lock scripts. ARGV[1] is the key prefix, ARGV[2] is added to the server's clock in ms.
-- Keys of a lock N (with the prefix in front):
--   lock:N:holders  zset  ticket -> end of its lease
--   lock:N:queue    zset  ticket -> its number; the lowest is served first
--   lock:N:patience zset  ticket -> when a waiting request expires unless it is repeated
--   lock:N:tickets  hash  ticket -> JSON {shared, label, fence, until}, of holders and waiting requests
-- and of all: locks (zset of used names -> time of their next clean-up), lock:fence (counter that never
-- expires, for fencing tokens and numbers).
-- A lock without holders and waiting requests has no keys; requests for other locks remove the keys of dead
-- clients.

local P = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])

local function key(name, part) return P .. 'lock:' .. name .. ':' .. part end

local function next_number() return redis.call('INCR', P .. 'lock:fence') end

local function ticket_of(name, ticket)
  local text = redis.call('HGET', key(name, 'tickets'), ticket)
  return text and cjson.decode(text)
end

local function write_ticket(name, ticket, facts)
  redis.call('HSET', key(name, 'tickets'), ticket, cjson.encode(facts))
end

local function drop(name, ticket)
  if redis.call('ZREM', key(name, 'holders'), ticket) == 0 then
    redis.call('ZREM', key(name, 'queue'), ticket)
    redis.call('ZREM', key(name, 'patience'), ticket)
  end
  return redis.call('HDEL', key(name, 'tickets'), ticket)
end

-- Grant a lock to a ticket.
local function grant(name, ticket, shared, label, lease, fence)
  redis.call('ZADD', key(name, 'holders'), now + lease, ticket)
  write_ticket(name, ticket, { shared = shared, label = label, fence = fence, ['until'] = now + lease })
  redis.call('ZADD', P .. 'locks', now + lease, name)
  return fence
end

-- Return true if another ticket holds the lock or is ahead in the queue, and does not share it. The order of arrival
-- counts; shared requests may be granted together, but not past an exclusive one.
local function stands_in_the_way(name, ticket, shared)
  for _, holder in ipairs(redis.call('ZRANGE', key(name, 'holders'), 0, -1)) do
    if holder ~= ticket and not (shared and ticket_of(name, holder).shared) then return true end
  end
  for _, waiting in ipairs(redis.call('ZRANGE', key(name, 'queue'), 0, -1)) do
    if waiting == ticket then break end
    if not (shared and ticket_of(name, waiting).shared) then return true end
  end
  return false
end

local function in_use(name) return redis.call('EXISTS', key(name, 'tickets')) == 1 end

-- Remove expired tickets; returns their number.
local function prune(name)
  local count = 0
  for _, part in ipairs({ 'holders', 'patience' }) do
    local gone = redis.call('ZRANGEBYSCORE', key(name, part), '-inf', now)
    for _, ticket in ipairs(gone) do drop(name, ticket) end
    count = count + #gone
  end
  return count
end

-- Wake the next request in the queue, and no other; remove the lock if there is none.
local function wake_next(name)
  if in_use(name) then
    local next_one = redis.call('ZRANGE', key(name, 'queue'), 0, 0)[1]
    if next_one then redis.call('PUBLISH', P .. 'lock-wake:' .. next_one, '1') end
  else
    redis.call('ZREM', P .. 'locks', name)
  end
end

-- Remove some locks of dead clients, so that they do not accumulate; a lock in use is checked again after `pause` ms.
local function sweep(pause)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'locks', '-inf', now, 'LIMIT', 0, 2)) do
    redis.call('ZADD', P .. 'locks', now + pause, name)
    prune(name)
    wake_next(name)
  end
end
