-- Open a run, or find the one under the key.
-- ARGV: run, key, fingerprint, queue, parallel, callback, max_attempts, order, message,
--       lease_ms, retention_ms, republish_ms, message to a coordinator ('' if the run is not detached),
--       release, schema version, summary for its messages (escaped for JSON), random number for the token,
--       run and token of this client's own submission of which data was lost ('' for none),
--       message that asks for the run ('' for none), which the sweep publishes if its submitter vanishes,
--       ended run whose key this one takes ('' for none), '1' if it starts when another one has ended ('' if not),
--       run that starts when this one has ended ('' for none),
--       '1' to publish the request now, and leave the plan to the worker that takes it ('' if the caller plans),
--       '1' if its items start before its list of them is complete ('' if not)
-- Returns kind, run, token, previous, and of a run taken over its numbers of items and of items and outcomes.
local run, idempotency_key, fingerprint = ARGV[3], ARGV[4], ARGV[5]
local lease = integer(ARGV[12])
local own_run, own_token, request, replaces, waits, following, enqueues, early = unpack(ARGV, 20, 27)
local kind, previous = 'new', ''

-- The run has no submitter now: whoever takes the request may plan it at once. The sweep replaces a lost one.
local function enqueue_request(asked)
  redis.call('HSET', key(asked), 'submitter_until', now, 'requested_ms', now)
  redis.call('LPUSH', P .. 'mq:coordinate', request)
end

-- Submit the same run again: its submitter died, or is this client, which knows more of it than the ledger does. From
-- its first item, unless some of its items may have started.
local function take_over(old, parent)
  if redis.call('HEXISTS', key(old), 'early') == 0 then empty(old) end
  redis.call('HSET', key(old), 'submitter_until', now + lease, 'coordinator_until', now + lease)
  if request ~= '' then redis.call('HSET', key(old), 'request', request) end
  if enqueues == '1' then enqueue_request(old) end
  local queued, total = unpack(redis.call('HMGET', key(old), 'queued', 'total'))
  return { parent == '' and 'new' or 'continued', old, raise_number(old, 'token', ARGV[19]), parent, integer(queued),
    integer(total) }
end

if own_run ~= '' then
  local state, token, parent = unpack(redis.call('HMGET', key(own_run), 'state', 'token', 'parent'))
  if state == 'submitting' and integer(token) <= integer(own_token) then return take_over(own_run, parent) end
end

if idempotency_key ~= '' then
  local old = redis.call('GET', P .. 'key:' .. idempotency_key)
  if old and redis.call('EXISTS', key(old)) == 1 then
    local state, used, until_ms, started, parent =
      unpack(redis.call('HMGET', key(old), 'state', 'fingerprint', 'submitter_until', 'started', 'parent'))
    local has_ended = state == 'succeeded' or state == 'failed' or state == 'cancelled'
    local has_done_nothing = state == 'failed' and not started -- its plan was refused: the key is free
    if used ~= fingerprint and not has_done_nothing then return { 'conflict', old, 0, '' } end
    if state == 'submitting' and integer(until_ms) <= now then return take_over(old, parent) end
    if not has_ended then return { 'attached', old, 0, '' } end
    if old ~= replaces then
      if state == 'succeeded' then return { 'succeeded', old, 0, '' } end
      -- A run that was cancelled half submitted does not know all of its items: it cannot be continued.
      if started then kind, previous = 'continued', old end
    end
  end
  redis.call('SET', P .. 'key:' .. idempotency_key, run)
end

redis.call('HSET', key(run), 'state', 'submitting', 'fingerprint', fingerprint, 'queue', ARGV[6],
  'parallel', ARGV[7], 'callback', ARGV[8], 'awaits', ARGV[8] == 'none' and 0 or 1,
  'max_attempts', ARGV[9], 'order', ARGV[10], 'message', ARGV[11], 'parent', previous,
  'retention_ms', ARGV[13], 'republish_ms', ARGV[14], 'lease_ms', lease,
  'created_ms', now, 'submitter_until', now + lease, 'coordinator_until', now + lease,
  'token', 0, 'total', 0, 'queued', 0, 'next', 0, 'messages', 0, 'fence', 0, 'epoch', 0,
  'succeeded', 0, 'failed', 0, 'skipped', 0, 'cancelled', 0, 'bytes', 0,
  'held', 0, 'unacknowledged', 0, 'cursor', '')
redis.call('HSET', key(run), 'release', ARGV[16], 'schema', ARGV[17], 'subject', ARGV[18],
  'operation', string.match(ARGV[10], '^{"operation":"([%w_]+)"') or 'other') -- a label of its counters
if idempotency_key ~= '' then redis.call('HSET', key(run), 'key', idempotency_key) end
-- `requested` and `requested_ms`: how often the sweep has published the request, and when it last did.
if request ~= '' then redis.call('HSET', key(run), 'request', request) end
-- `follows`: the run that has to end before this one starts; '' as long as that one is not written.
if waits ~= '' then redis.call('HSET', key(run), 'follows', '') end
if following ~= '' and redis.call('EXISTS', key(following)) == 1 then
  redis.call('HSET', key(following), 'follows', run)
end
-- `early`: 1 if its items start before its list of them is complete: `state` is submitting until it is.
if early ~= '' then redis.call('HSET', key(run), 'early', 1) end
-- `paused`: 1 while no item of it starts (pause.lua); `state` is submitting or running all the same.
-- In a detached run `coordinator` is absent, called, present or paused.
-- Reasons of its waits, if any: `retry_reason`, `pause_reason` and `callback_reason` (runs/models.py).
if ARGV[15] ~= '' then redis.call('HSET', key(run), 'coordinator', 'absent', 'coordinate_message', ARGV[15]) end
redis.call('ZADD', P .. 'runs', now, run)
redis.call('ZADD', P .. 'live', now, run)
if enqueues == '1' then enqueue_request(run) end
return { kind, run, raise_number(run, 'token', ARGV[19]), previous }
