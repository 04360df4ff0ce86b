-- Hand back a claimed item without counting the attempt.
-- ARGV: run, index, claim, the index of the item whose end it waits for ('' for none).
local run, index, claim, other = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not revoke_claim(run, index, claim) then return 0 end

-- Items that wait for one another in a cycle would never end.
local function is_ring(at)
  for _ = 1, 100 do
    if at == index then return true end
    at = redis.call('ZSCORE', key(run, 'behind'), at)
    if not at then return false end
  end
  return true
end

if redis.call('HGET', key(run), 'state') == 'cancelling' then
  redis.call('HINCRBY', key(run), 'cancelled', 1)
  count_cancelled(redis.call('HGET', key(run), 'operation'), 1)
  redis.call('ZREM', key(run, 'leases'), index)
  finish_run_if_done(run)
  return answer(1)
end
if other ~= '' and not has_ended(run, other) and not is_ring(other) then
  redis.call('ZADD', key(run, 'behind'), other, index)
else
  redis.call('ZADD', key(run, 'waiting'), now, index)
end
redis.call('ZREM', key(run, 'leases'), index)
release(run)
return 1
