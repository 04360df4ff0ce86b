-- Claim an item for a worker.
-- ARGV: run, index, nonce. Returns false, or item, fencing token, attempt, lease in ms.
-- The nonce makes a claim repeatable after a lost reply.
local OVERTAKING_STEP_MS = 500 -- so that not every claim writes
local OVERTAKING_LIFE_MS = 24 * 3600 * 1000
local run, index, nonce = ARGV[3], ARGV[4], ARGV[5]
local meta = key(run)
local fields = read_fields(run)
local published = redis.call('ZSCORE', key(run, 'published'), index)
local item = redis.call('HGET', key(run, 'items'), index)
local fence

-- A queue is first in, first out over all runs: a message pushed before a claimed one, and not claimed a while
-- later, is lost.
local function note_newest_claimed()
  local is_hosted = fields.hosted and string.find(item, '\31', 1, true)
  if not is_hosted and integer(published) < integer(fields.overtaking_ms) + OVERTAKING_STEP_MS then return end
  redis.call('HSET', meta, 'overtaking_ms', published)
  local _, _, target = address(item, fields.queue)
  local name = P .. 'overtaking:' .. target
  if integer(published) > integer(redis.call('GET', name)) then
    redis.call('SET', name, published, 'PX', OVERTAKING_LIFE_MS)
  end
end

if published and item and takes_claims(fields) then
  fence = tostring(redis.call('HINCRBY', meta, 'fence', 1))
  redis.call('HSET', key(run, 'claims'), index, fence .. ' ' .. nonce)
  note_newest_claimed()
else
  local holder, owner = string.match(redis.call('HGET', key(run, 'claims'), index) or '', '^(%d+) (.*)$')
  if owner ~= nonce then return false end
  fence = holder
end
redis.call('ZADD', key(run, 'leases'), now + integer(fields.lease_ms), index)
if published then
  redis.call('ZREM', key(run, 'published'), index)
  release(run, fields)
end
return { item, fence, integer(redis.call('HGET', key(run, 'tries'), index)) + 1, fields.lease_ms }
