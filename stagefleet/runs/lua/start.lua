-- Close the list of items, and publish the first if that has not been done.
-- ARGV: run, token, number of items and outcomes that the caller expects.
-- Returns 'ok', 'lost' or 'rewound', as append.lua.
local run, token = ARGV[3], ARGV[4]
local state, holder, queue, lease, total, paused =
  unpack(redis.call('HMGET', key(run), 'state', 'token', 'queue', 'lease_ms', 'total', 'paused'))
if not state or integer(holder) < integer(token) then return 'rewound' end
if holder ~= token then return 'lost' end
if state ~= 'submitting' then return 'ok' end
if total ~= ARGV[5] then return 'rewound' end
redis.call('HSET', key(run), 'state', 'running', 'started', 1, 'coordinator_until', now + integer(lease))
if not paused then redis.call('ZADD', P .. 'live:' .. queue, now, run) end
release(run)
redis.call('HDEL', key(run), 'request')
finish_run_if_done(run)
if integer(redis.call('HGET', key(run), 'unacknowledged')) > 0 then request_coordinator(run) end
return answer('ok')
