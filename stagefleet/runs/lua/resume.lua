-- Resume a paused run, and publish its next items. ARGV: run.
-- Returns 1, 0 if it was not paused, -1 if there is no such run, or the state of one that is ending or has ended.
local run = ARGV[3]
local meta = key(run)
local state, queue, paused, lease, early =
  unpack(redis.call('HMGET', meta, 'state', 'queue', 'paused', 'lease_ms', 'early'))
if not state then return -1 end
if state ~= 'submitting' and state ~= 'running' then return state end
if not paused then return 0 end
redis.call('HSET', meta, 'coordinator_until', now + integer(lease)) -- nobody looked at it meanwhile
if state == 'running' or early then redis.call('ZADD', P .. 'live:' .. queue, now, run) end
redis.call('HDEL', meta, 'paused')
release(run)
return 1
