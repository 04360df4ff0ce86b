-- Become the coordinator of a run. ARGV: run, random number for the epoch. Returns the epoch, or 0 without a run.
local run = ARGV[3]
if redis.call('EXISTS', key(run)) == 0 then return 0 end
write_at_maxmemory()
redis.call('HSET', key(run), 'coordinator_until', now + integer(redis.call('HGET', key(run), 'lease_ms')))
return raise_number(run, 'epoch', ARGV[4])
