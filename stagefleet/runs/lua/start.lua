-- Close the list of items and publish the first.
-- ARGV: run, token. Returns 'ok' or 'lost'.
local run, token = ARGV[3], ARGV[4]
local state, holder, queue, lease = unpack(redis.call('HMGET', key(run), 'state', 'token', 'queue', 'lease_ms'))
if holder ~= token then return 'lost' end
if state ~= 'submitting' then return 'ok' end
redis.call('HSET', key(run), 'state', 'running', 'started', 1, 'coordinator_until', now + integer(lease))
redis.call('ZADD', P .. 'live:' .. queue, now, run)
release(run)
settle(run)
if integer(redis.call('HGET', key(run), 'unacknowledged')) > 0 then call(run) end
return 'ok'
