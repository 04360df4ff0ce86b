-- Record the end of an attempt.
-- ARGV: run, index, claim, state, outcome, bytes, retry_ms ('' for no retry), reason of the wait (JSON), attempt,
--       error, duration (labels of its counter).
-- Returns 1, 2 if the item waits for another attempt, or 0 for a stale claim.
local run, index, claim, state, retry = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[9]
if not revoke_claim(run, index, claim) then return 0 end
local meta, fields = key(run), read_fields(run)
if retry ~= '' and state == 'failed' then
  local tries = redis.call('HINCRBY', key(run, 'tries'), index, 1)
  if takes_claims(fields) and tries < integer(fields.max_attempts) then
    redis.call('ZADD', key(run, 'waiting'), now + integer(retry), index)
    redis.call('ZREM', key(run, 'leases'), index)
    redis.call('HSET', meta, 'retry_reason', ARGV[10])
    release(run, fields)
    count(1, 'retries', fields.operation or 'other', ARGV[12], ARGV[13])
    return 2
  end
end
end_item(run, fields, index, integer(ARGV[11]), ARGV[7], state, table.concat({ state, ARGV[12], ARGV[13] }, ' '))
if ARGV[8] ~= '0' then
  redis.pcall('HINCRBY', meta, 'bytes', ARGV[8]) -- an overflow must not fail the item
  count(integer(ARGV[8]), 'bytes', fields.operation or 'other')
end
redis.call('ZREM', key(run, 'leases'), index)
if release(run, fields) == 0 and not has_unpublished(fields) then finish_run_if_done(run) end
return answer(1)
