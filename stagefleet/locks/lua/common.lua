-- Shared by all scripts of the locks. ARGV[1] is the key prefix, ARGV[2] is added to the server's clock in ms.
-- Keys of a lock N (with the prefix in front):
--   lock:N:holders  zset  ticket -> when its lease ends
--   lock:N:queue    zset  ticket -> its number; the least is served first
--   lock:N:tickets  hash  ticket -> JSON {shared, label, fence, until}, of those who hold and those who wait
-- and of all: locks (set of names in use), lock:fence (counter that never expires, for fences and numbers).
-- A lock that nobody holds or waits for has no keys.

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
  redis.call('ZREM', key(name, 'holders'), ticket)
  redis.call('ZREM', key(name, 'queue'), ticket)
  return redis.call('HDEL', key(name, 'tickets'), ticket)
end

-- Forget whose time is over; returns how many they were.
local function prune(name)
  local gone = redis.call('ZRANGEBYSCORE', key(name, 'holders'), '-inf', now)
  for _, ticket in ipairs(redis.call('ZRANGE', key(name, 'queue'), 0, -1)) do
    local facts = ticket_of(name, ticket)
    if not facts or facts['until'] <= now then gone[#gone + 1] = ticket end
  end
  for _, ticket in ipairs(gone) do drop(name, ticket) end
  return #gone
end

-- Tell those who wait, and forget the lock if nobody is left.
local function stir(name)
  if redis.call('EXISTS', key(name, 'tickets')) == 0 then
    redis.call('SREM', P .. 'locks', name)
  else
    redis.call('PUBLISH', P .. 'lock:' .. name, '1')
  end
end
