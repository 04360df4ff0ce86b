-- Shared by all scripts of the locks. ARGV[1] is the key prefix, ARGV[2] is added to the server's clock in ms.
-- Keys of a lock N (with the prefix in front):
--   lock:N:holders  zset  ticket -> when its lease ends
--   lock:N:queue    zset  ticket -> its number; the least is served first
--   lock:N:patience zset  ticket -> when one who waits and is silent loses its place
--   lock:N:tickets  hash  ticket -> JSON {shared, label, fence, until}, of those who hold and those who wait
-- and of all: locks (zset of names in use -> when to look at them next), lock:fence (counter that never
-- expires, for fences and numbers).
-- A lock that nobody holds or waits for has no keys; what a dead client left is swept by those who ask for
-- other locks.

local P = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])

local function key(name, part) return P .. 'lock:' .. name .. ':' .. part end

local function next_number() return redis.call('INCR', P .. 'lock:fence') end

local function ticket_of(name, ticket)
  local text = redis.call('HGET', key(name, 'tickets'), ticket)
  return text and cjson.decode(text)
end

local function keep(name, ticket, facts)
  redis.call('HSET', key(name, 'tickets'), ticket, cjson.encode(facts))
end

local function drop(name, ticket)
  if redis.call('ZREM', key(name, 'holders'), ticket) == 0 then
    redis.call('ZREM', key(name, 'queue'), ticket)
    redis.call('ZREM', key(name, 'patience'), ticket)
  end
  return redis.call('HDEL', key(name, 'tickets'), ticket)
end

-- Let a ticket have a lock.
local function hold(name, ticket, shared, label, lease, fence)
  redis.call('ZADD', key(name, 'holders'), now + lease, ticket)
  keep(name, ticket, { shared = shared, label = label, fence = fence, ['until'] = now + lease })
  redis.call('ZADD', P .. 'locks', now + lease, name)
  return fence
end

-- Whether somebody else holds a lock, or came first, and will not share it. Whoever came first goes first;
-- sharers may go together, but not past one who wants it alone.
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

-- Forget whose time is over; returns how many they were.
local function prune(name)
  local count = 0
  for _, part in ipairs({ 'holders', 'patience' }) do
    local gone = redis.call('ZRANGEBYSCORE', key(name, part), '-inf', now)
    for _, ticket in ipairs(gone) do drop(name, ticket) end
    count = count + #gone
  end
  return count
end

-- Wake the next in line, and nobody else; forget the lock if nobody is left.
local function stir(name)
  if in_use(name) then
    local next_one = redis.call('ZRANGE', key(name, 'queue'), 0, 0)[1]
    if next_one then redis.call('PUBLISH', P .. 'lock-wake:' .. next_one, '1') end
  else
    redis.call('ZREM', P .. 'locks', name)
  end
end

-- Forget a few locks of clients that vanished, so that they do not pile up; `pause` ms until a lock that is
-- in use is looked at again.
local function sweep(pause)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'locks', '-inf', now, 'LIMIT', 0, 2)) do
    redis.call('ZADD', P .. 'locks', now + pause, name)
    prune(name)
    stir(name)
  end
end
