-- Extend a coordinator's lease to a full one from now, even after its run has ended. ARGV: run, epoch.
-- Returns 1, or 0 if another coordinator has taken over.
local run, epoch = ARGV[3], ARGV[4]
local meta = key(run)
local current, coordinator, lease = unpack(redis.call('HMGET', meta, 'epoch', 'coordinator', 'lease_ms'))
if current ~= epoch or coordinator ~= 'present' then return 0 end
write_at_maxmemory()
redis.call('HSET', meta, 'coordinator_until', now + integer(lease))
redis.call('ZADD', P .. 'callbacks', 'XX', now + integer(lease), run)
return 1
