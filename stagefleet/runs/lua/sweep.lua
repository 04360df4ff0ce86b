-- Mend what one run has lost. ARGV: run, the error of a lost coordinator (JSON), our major schema version.
-- Returns how much was touched.
local run, lost_error = ARGV[3], ARGV[4]
local meta = key(run)
local BATCH = 500
local HOST_PATIENCE = 3 -- times the age from which a message may count as lost
local state, queue, callback, awaits, coordinator_until, submitter_until =
  unpack(redis.call('HMGET', meta, 'state', 'queue', 'callback', 'awaits', 'coordinator_until', 'submitter_until'))
local idempotency_key, limit, republish, overtaking, retention =
  unpack(redis.call('HMGET', meta, 'key', 'max_attempts', 'republish_ms', 'overtaking_ms', 'retention_ms'))
if not state then
  redis.call('ZREM', P .. 'live', run)
  return 0
end
local schema = tonumber(string.match(redis.call('HGET', meta, 'schema') or '', '^(%d+)%.'))
if schema and schema > integer(ARGV[5]) then return 0 end -- its fields mean something else: its own release mends it
local touched = 0

local function fail(index, kind, message)
  local id, host = address(redis.call('HGET', key(run, 'items'), index), queue)
  local tries = integer(redis.call('HGET', key(run, 'tries'), index))
  redis.call('HDEL', key(run, 'tries'), index)
  record(run, cjson.encode({ item = id, host = host, state = 'failed', attempts = math.max(1, tries),
    error = { type = kind, message = message } }), 'failed', true)
  let_go(run, index)
end

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
      fail(index, 'WorkerLostError',
        'the worker vanished, ' .. tries .. ' times in a row; see the logs of the workers')
    end
  end
end

if state == 'running' then
  local behind, last = redis.call('ZRANGE', key(run, 'behind'), 0, BATCH - 1, 'WITHSCORES'), nil
  for n = 2, #behind, 2 do -- nobody waits for ever, whoever forgot to let them go
    if behind[n] ~= last and has_ended(run, behind[n]) then
      let_go(run, behind[n])
      touched = touched + 1
    end
    last = behind[n]
  end
  local old = redis.call('ZRANGEBYSCORE', key(run, 'published'), '-inf', now - integer(republish), 'LIMIT', 0, BATCH)
  local lost = {}
  for _, index in ipairs(old) do
    local since = integer(redis.call('ZSCORE', key(run, 'published'), index))
    local _, host, target = address(redis.call('HGET', key(run, 'items'), index) or '', queue)
    if host and redis.call('EXISTS', P .. 'slots:' .. target) == 0 then
      if since <= now - HOST_PATIENCE * integer(republish) then
        redis.call('ZREM', key(run, 'published'), index)
        fail(index, 'HostGoneError', 'no worker of host ' .. host .. ' is there any more')
        touched = touched + 1
      end
    elseif redis.call('LLEN', P .. 'mq:' .. target) == 0 or (not host and since < integer(overtaking)) then
      lost[#lost + 1] = index
    end
  end
  touched = touched + #lost
  publish(run, queue, lost)
  release(run)
end
settle(run)
return touched
