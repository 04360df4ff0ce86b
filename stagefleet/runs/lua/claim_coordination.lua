-- Become the coordinator of a detached run. ARGV: run, random number for the epoch.
-- Returns epoch, failures, milliseconds since the first of them, its lease in milliseconds; or nothing if no callback
-- is due.
local run = ARGV[3]
local meta = key(run)
local state, coordinator, lease_until, lease, failures, failing_since, early = unpack(redis.call('HMGET', meta,
  'state', 'coordinator', 'coordinator_until', 'lease_ms', 'failures', 'failing_since', 'early'))
if not coordinator or coordinator == 'absent' or state == 'submitting' and not early then return false end
if coordinator == 'present' and integer(lease_until) > now then return false end
if coordinator == 'paused' and integer(redis.call('ZSCORE', P .. 'callbacks', run)) > now then return false end
write_at_maxmemory()
redis.call('HSET', meta, 'coordinator', 'present', 'coordinator_until', now + integer(lease))
redis.call('ZADD', P .. 'callbacks', now + integer(lease), run)
local failing = failing_since and now - integer(failing_since) or 0
return { raise_number(run, 'epoch', ARGV[4]), integer(failures), failing, integer(lease) }
