-- End a coordinator's claim.
-- ARGV: run, epoch, how ('leave', 'pause' or 'conclude'), milliseconds of the pause, its reason (JSON).
-- Returns 1, or 0 if another coordinator has taken over.
local run, epoch, how = ARGV[3], ARGV[4], ARGV[5]
local meta = key(run)
local current, coordinator, cursor = unpack(redis.call('HMGET', meta, 'epoch', 'coordinator', 'cursor'))
if current ~= epoch or coordinator ~= 'present' then return 0 end
write_at_maxmemory()
redis.call('HSET', meta, 'coordinator_until', 0)
if how == 'conclude' then
  redis.call('HDEL', meta, 'coordinator', 'coordinate_message', 'failures', 'failing_since')
  redis.call('ZREM', P .. 'callbacks', run)
elseif how == 'pause' then
  redis.call('HSET', meta, 'coordinator', 'paused', 'callback_reason', ARGV[7])
  redis.call('HINCRBY', meta, 'failures', 1)
  redis.call('HSETNX', meta, 'failing_since', now)
  redis.call('ZADD', P .. 'callbacks', now + integer(ARGV[6]), run)
elseif has_news(run, cursor) then
  enqueue_coordinator(run)
else
  redis.call('HSET', meta, 'coordinator', 'absent')
  redis.call('ZREM', P .. 'callbacks', run)
end
return 1
