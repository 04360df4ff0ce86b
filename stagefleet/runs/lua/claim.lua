-- Give an item to a worker.
-- ARGV: run, index, nonce. Returns false, or item, fence, attempt, lease in ms.
-- The nonce makes a claim repeatable whose answer was lost.
local run, index, nonce = ARGV[3], ARGV[4], ARGV[5]
local meta = key(run)
local state, lease, overtaking = unpack(redis.call('HMGET', meta, 'state', 'lease_ms', 'overtaking_ms'))
local published = redis.call('ZSCORE', key(run, 'published'), index)
local fence
if published and state == 'running' then
  fence = tostring(redis.call('HINCRBY', meta, 'fence', 1))
  redis.call('ZREM', key(run, 'published'), index)
  redis.call('HSET', key(run, 'claims'), index, fence .. ' ' .. nonce)
  if integer(published) > integer(overtaking) then redis.call('HSET', meta, 'overtaking_ms', published) end
else
  local holder, owner = string.match(redis.call('HGET', key(run, 'claims'), index) or '', '^(%d+) (.*)$')
  if owner ~= nonce then return false end
  fence = holder
end
redis.call('ZADD', key(run, 'leases'), now + integer(lease), index)
if published then release(run) end
return { redis.call('HGET', key(run, 'items'), index), fence,
  integer(redis.call('HGET', key(run, 'tries'), index)) + 1, lease }
