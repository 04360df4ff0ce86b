-- Repair one run.
-- ARGV: run, the error of a lost coordinator (JSON), our major schema version, the error of lost items (JSON),
--       end of the previous sweep ('0' if there was none), interval of sweeps in ms, the error of a lost submitter (JSON).
-- Returns the number of changes.
local run, lost_error = ARGV[3], ARGV[4]
local meta = key(run)
local BATCH = 500
local HOST_PATIENCE = 3 -- times the age at which a message may count as lost
local SWEEPS_MISSED = 3 -- not a gap yet: another worker takes over from a dead reaper
local state, queue, callback, needs_ack, coordinator_until, submitter_until =
  unpack(redis.call('HMGET', meta, 'state', 'queue', 'callback', 'awaits', 'coordinator_until', 'submitter_until'))
local idempotency_key, limit, republish, retention, schema, lease, swept, created, cursor, unacknowledged, paused, early =
  unpack(redis.call('HMGET', meta, 'key', 'max_attempts', 'republish_ms', 'retention_ms', 'schema', 'lease_ms',
    'swept_ms', 'created_ms', 'cursor', 'unacknowledged', 'paused', 'early'))
write_at_maxmemory()
if not state then
  redis.call('ZREM', P .. 'live', run)
  return 0
end
local major = tonumber(string.match(schema or '', '^(%d+)%.'))
if major and major > integer(ARGV[5]) then return 0 end -- its fields have another meaning: its own release repairs it
local operation = redis.call('HGET', meta, 'operation')
local touched = 0

-- Give every holder a full lease if none could renew: there was no sweep for more than a third of a lease, as Redis was
-- away or lost data, or its clock was changed. A clock that was set back shifts all times.
local function bridge_gap()
  local since = integer(swept)
  if since == 0 then since = ARGV[7] == '0' and now or math.max(integer(created), integer(ARGV[7])) end
  redis.call('HSET', meta, 'swept_ms', now)
  local third = integer(lease) / 3
  local went_back = since - now > third
  if now - since <= math.max(third, SWEEPS_MISSED * integer(ARGV[8])) and not went_back then return end
  coordinator_until, submitter_until = now + integer(lease), now + integer(lease)
  redis.call('HSET', meta, 'coordinator_until', coordinator_until, 'submitter_until', submitter_until)
  for _, index in ipairs(redis.call('ZRANGE', key(run, 'leases'), 0, -1)) do
    redis.call('ZADD', key(run, 'leases'), now + integer(lease), index)
  end
  if not went_back then return end
  for _, index in ipairs(redis.call('ZRANGE', key(run, 'published'), 0, -1)) do
    redis.call('ZADD', key(run, 'published'), now, index)
  end
  for _, index in ipairs(redis.call('ZRANGE', key(run, 'waiting'), 0, -1)) do
    redis.call('ZINCRBY', key(run, 'waiting'), now - since, index)
  end
end

local function fail(index, kind, message)
  local id, host = address(redis.call('HGET', key(run, 'items'), index) or '', queue)
  local tries = integer(redis.call('HGET', key(run, 'tries'), index))
  end_item(run, read_fields(run), index, tries, cjson.encode({ item = id, host = host, state = 'failed',
    attempts = math.max(1, tries), error = { type = kind, message = message } }), 'failed', 'failed ' .. kind .. ' -')
end

-- An attempt without an end: start another one, or end the item. The caller removes it from its set.
local function try_again(index, kind, message)
  local tries = redis.call('HINCRBY', key(run, 'tries'), index, 1)
  if tries < integer(limit) then
    redis.call('ZADD', key(run, 'waiting'), now, index)
  else
    fail(index, kind, string.format(message, tries))
  end
end

local function expire_leases()
  for _, index in ipairs(redis.call('ZRANGEBYSCORE', key(run, 'leases'), '-inf', now, 'LIMIT', 0, BATCH)) do
    touched = touched + 1
    count(1, 'reaped', operation or 'other')
    if state == 'cancelling' then
      redis.call('HINCRBY', meta, 'cancelled', 1)
      count_cancelled(operation, 1)
    else
      try_again(index, 'WorkerLostError', 'the worker vanished, %d times in a row; see the logs of the workers')
    end
    redis.call('HDEL', key(run, 'claims'), index)
    redis.call('ZREM', key(run, 'leases'), index)
  end
end

-- Release items behind ended ones, so that no item waits for ever.
local function release_forgotten()
  local behind, last = redis.call('ZRANGE', key(run, 'behind'), 0, BATCH - 1, 'WITHSCORES'), nil
  for n = 2, #behind, 2 do
    if behind[n] ~= last and has_ended(run, behind[n]) then
      release_behind(run, behind[n])
      touched = touched + 1
    end
    last = behind[n]
  end
end

-- Return true if a message of that time was overtaken in its queue; a future time comes from a clock that was set back.
local function is_overtaken(target, since)
  local newest = integer(redis.call('GET', P .. 'overtaking:' .. target))
  return newest <= now and since < newest
end

local function republish_lost()
  local old = redis.call('ZRANGEBYSCORE', key(run, 'published'), '-inf', now - integer(republish), 'LIMIT', 0, BATCH)
  local lost = {}
  for _, index in ipairs(old) do
    local since = integer(redis.call('ZSCORE', key(run, 'published'), index))
    local item = redis.call('HGET', key(run, 'items'), index)
    local _, host, target = address(item or '', queue)
    if not item then
      redis.call('ZREM', key(run, 'published'), index) -- the item is unknown: the counters reveal it
    elseif host and redis.call('EXISTS', P .. 'slots:' .. target) == 0 then
      if since <= now - HOST_PATIENCE * integer(republish) then
        fail(index, 'HostLostError', 'no worker of host ' .. host .. ' is there any more')
        redis.call('ZREM', key(run, 'published'), index)
        touched = touched + 1
      end
    elseif redis.call('LLEN', P .. 'mq:' .. target) == 0 or is_overtaken(target, since) then
      lost[#lost + 1] = index
    end
  end
  touched = touched + #lost
  local fields = read_fields(run)
  publish(run, fields, lost, fields.next)
  fields.enough = nil
  release(run, fields)
end

-- Outcomes lost from the stream can never be acknowledged: their run goes on, and fails.
local function drop_lost_outcomes()
  if integer(unacknowledged) <= 0 or has_news(run, cursor) then return end
  redis.call('HSETNX', meta, 'error', ARGV[6])
  redis.call('HSET', meta, 'unacknowledged', 0, 'held', 0)
  touched = touched + 1
end

-- Try items again that are in no set and have not ended. Returns true if there were any.
local function find_unaccounted()
  local queued, found = integer(redis.call('HGET', meta, 'queued')), false
  for first = 0, queued - 1, BATCH do
    local indexes = {}
    for index = first, math.min(queued, first + BATCH) - 1 do indexes[#indexes + 1] = tostring(index) end
    local items = redis.call('HMGET', key(run, 'items'), unpack(indexes))
    local tries = redis.call('HMGET', key(run, 'tries'), unpack(indexes))
    for n, index in ipairs(indexes) do
      if items[n] and tries[n] ~= '-1' and not redis.call('ZSCORE', key(run, 'behind'), index) then
        try_again(index, 'ItemLostError', 'Redis lost the item, %d times in a row')
        found = true
        touched = touched + 1
      end
    end
  end
  return found
end

-- Publish the request for a run again whose submitter vanished; one that waits in its queue is not lost.
local function request_again(request)
  local requested, requested_at = unpack(redis.call('HMGET', meta, 'requested', 'requested_ms'))
  local is_recent = integer(requested_at) <= now and integer(requested_at) + integer(lease) > now
  if is_recent or redis.call('LLEN', P .. 'mq:coordinate') > 0 then return 0 end
  local attempts = integer(requested) + 1
  if attempts >= integer(limit) then
    fail_unstarted(run, cjson.encode({ type = 'WorkerLostError',
      message = string.format('no worker planned the run, in %d attempts; see the logs of the workers', attempts) }))
  else
    redis.call('HSET', meta, 'requested', attempts, 'requested_ms', now)
    redis.call('LPUSH', P .. 'mq:coordinate', request)
  end
  return 1
end

-- Return true if a run has not ended, or its coordinator has yet to start the next one.
local function is_going_on(other)
  local standing, coordinator = unpack(redis.call('HMGET', key(other), 'state', 'coordinator'))
  return standing and (coordinator or standing ~= 'succeeded' and standing ~= 'failed' and standing ~= 'cancelled')
end

-- Ask for a run again, or cancel it, whose submitter vanished before its list was complete. Returns true if it did so.
local function give_up_submission()
  local request, follows = unpack(redis.call('HMGET', meta, 'request', 'follows'))
  if request then return integer(submitter_until) <= now and request_again(request) > 0 end
  if follows and is_going_on(follows) then
    redis.call('HSET', meta, 'submitter_until', now + integer(lease))
    return false
  end
  -- With a key a repeated call completes it; nobody repeats it for ever, nor at all where it follows another run.
  local waiting_ms = idempotency_key and not follows and integer(retention) or 0
  if integer(submitter_until) + waiting_ms > now then return false end
  cancel(run, false, ARGV[9])
  return true
end

bridge_gap()
if state == 'submitting' then
  if give_up_submission() then touched = 1 end
  if not early then return answer(touched) end
elseif needs_ack == '1' and callback == 'client' and not paused and integer(coordinator_until) <= now then
  cancel(run, false, lost_error)
  touched = 1
end
if touched > 0 then state = redis.call('HGET', meta, 'state') end
drop_lost_outcomes()
expire_leases()
if state == 'running' or state == 'submitting' then
  release_forgotten()
  republish_lost()
  local missing = unaccounted(run)
  if missing and missing ~= 0 and not find_unaccounted() then
    finish_run_if_done(run, ARGV[6])
    return answer(touched + 1)
  end
  release(run)
end
finish_run_if_done(run)
return answer(touched)
