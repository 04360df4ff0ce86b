-- Mend what one run has lost. ARGV: run, the error of a lost coordinator (JSON).
-- Returns how much was touched.
local run, lost_error = ARGV[3], ARGV[4]
local meta = key(run)
local BATCH = 500
local state, queue, callback, awaits, coordinator_until, submitter_until =
  unpack(redis.call('HMGET', meta, 'state', 'queue', 'callback', 'awaits', 'coordinator_until', 'submitter_until'))
local idempotency_key, limit, republish, overtaking, retention =
  unpack(redis.call('HMGET', meta, 'key', 'max_attempts', 'republish_ms', 'overtaking_ms', 'retention_ms'))
if not state then
  redis.call('ZREM', P .. 'live', run)
  return 0
end
local touched = 0

if state == 'submitting' then
  -- Under a key the same call again completes it; nobody calls for ever.
  local patience = idempotency_key and integer(retention) or 0
  if integer(submitter_until) + patience > now then return 0 end
  cancel(run, false, lost_error)
  return 1
end

if awaits == '1' and callback == 'client' and integer(coordinator_until) <= now then
  cancel(run, false, lost_error)
  state = 'cancelling'
  touched = touched + 1
end

for _, index in ipairs(redis.call('ZRANGEBYSCORE', key(run, 'leases'), '-inf', now, 'LIMIT', 0, BATCH)) do
  touched = touched + 1
  redis.call('ZREM', key(run, 'leases'), index)
  redis.call('HDEL', key(run, 'claims'), index)
  if state == 'cancelling' then
    redis.call('HINCRBY', meta, 'cancelled', 1)
  else
    local tries = redis.call('HINCRBY', key(run, 'tries'), index, 1)
    if tries < integer(limit) then
      redis.call('ZADD', key(run, 'waiting'), now, index)
    else
      redis.call('HDEL', key(run, 'tries'), index)
      local item = redis.call('HGET', key(run, 'items'), index)
      local message = 'the worker vanished, ' .. tries .. ' times in a row; see the logs of the workers'
      record(run, cjson.encode({ item = item, state = 'failed', attempts = tries,
        error = { type = 'WorkerLostError', message = message } }), 'failed', true)
    end
  end
end

if state == 'running' then
  local old = redis.call('ZRANGEBYSCORE', key(run, 'published'), '-inf', now - integer(republish), 'LIMIT', 0, BATCH)
  if #old > 0 then
    local lost = old
    if redis.call('LLEN', P .. 'mq:' .. queue) > 0 then
      lost = {}
      for _, index in ipairs(old) do
        if integer(redis.call('ZSCORE', key(run, 'published'), index)) < integer(overtaking) then
          lost[#lost + 1] = index
        end
      end
    end
    touched = touched + #lost
    publish(run, queue, lost)
  end
  release(run)
end
settle(run)
return touched
