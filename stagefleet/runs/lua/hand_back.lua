-- Give a claimed item back without counting the attempt. ARGV: run, index, claim.
local run, index, claim = ARGV[3], ARGV[4], ARGV[5]
if not take(run, index, claim) then return 0 end
if redis.call('HGET', key(run), 'state') == 'running' then
  redis.call('ZADD', key(run, 'waiting'), now, index)
  release(run)
else
  redis.call('HINCRBY', key(run), 'cancelled', 1)
  settle(run)
end
return 1
