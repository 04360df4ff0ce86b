-- Common part of all ledger scripts, prepended to each.
--
-- Writes that Redis can refuse come first, and removals last: if a script ends in its middle (a command that the login
-- may not use, a key of another type), its item is still in some set, and is found again.
--
-- ARGV[1] is the key prefix, ARGV[2] is added to the server's clock (milliseconds; 0 outside of tests).
-- Keys of a run R (with the prefix in front):
--   run:R            hash    definition and state of the run (fields: see open.lua)
--   run:R:items      hash    index -> item, of all that have not succeeded and were not skipped
--   run:R:published  zset    index -> when its message was pushed; not claimed yet
--   run:R:leases     zset    index -> end of its lease; claimed by a worker
--   run:R:claims     hash    index -> "FENCE NONCE"; both identify a claim, as a lost fence is issued again
--   run:R:waiting    zset    index -> time of its next attempt
--   run:R:behind     zset    index -> the index of the item whose end it waits for
--   run:R:tries      hash    index -> attempts that ended; -1 once the item has failed for good
--   run:R:outcomes   stream  `o` an outcome, and `k` for one without a place in the window: s decided without
--                            a task, c cancelled, which is not acknowledged either; `end` the run's final state
--   book:R           hash    the shared state of its workers (stagefleet/shared_state)
-- and of the fleet:
--   runs, live       zset    run -> when it was opened; all runs, and those that have not ended
--   live:Q           zset    the ones of queue Q whose items may be claimed
--   key:K            string  the run under an idempotency key
--   workers          hash    name -> JSON {slots, queues, until}
--   slots:Q          string  the live slots that listen to queue Q
--   overtaking:Q     string  when the newest claimed message of queue Q had been pushed
--   swept            string  when the last sweep ended
--   callbacks        zset    run -> when the sweep starts its coordinator (again); runs that wait for one
--   counters         hash    "KIND LABEL..." -> what was counted since the fleet began (stagefleet/runs/metrics.py)
-- An index below `next` that is in none of published, leases, waiting and behind is done.

local P = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])
local ended = false -- the script's run has ended in this call

local function key(run, part)
  if part then return P .. 'run:' .. run .. ':' .. part end
  return P .. 'run:' .. run
end

local function integer(value)
  return tonumber(value or 0) or 0
end

-- Allow writes while Redis is at its `maxmemory`: it refuses a script only up to its first write, and a write that
-- needs no memory is not refused (Redis 6 and 7, Valkey).
local function write_at_maxmemory()
  redis.call('DEL', P .. 'none')
end

-- Add to a counter of the fleet, whose labels are of closed sets or of few values. It never fails the step that is
-- counted. Only a new counter asks how many there are of its kind: too many of them are one.
local MOST_OF_A_KIND = 1000
local function count(number, kind, ...)
  local counters, field = P .. 'counters', table.concat({ kind, ... }, ' ')
  if number <= 0 or redis.pcall('HINCRBY', counters, field, number) ~= number then return end
  local found = 0
  for _, name in ipairs(redis.call('HKEYS', counters)) do
    if string.match(name, '^%S+') == kind then found = found + 1 end
  end
  if found > MOST_OF_A_KIND then
    redis.call('HDEL', counters, field)
    redis.call('HINCRBY', counters, kind .. ' other', number)
  end
end

-- Increase a number of a run's hash that fences off holders of an older one. It combines the clock and a random number
-- of the caller (0 to 1023), so that a server which has lost a number does not issue it again.
local function raise_number(run, field, chance)
  local number = math.max(integer(redis.call('HGET', key(run), field)) + 1, now * 1024 + integer(chance))
  redis.call('HSET', key(run), field, string.format('%.0f', number))
  return number
end

-- Return true if the stream has unacknowledged outcomes, after the cursor.
local function has_news(run, cursor)
  local from = cursor == '' and '-' or cursor
  local entries = redis.call('XRANGE', key(run, 'outcomes'), from, '+', 'COUNT', 2)
  return #entries > 1 or #entries == 1 and entries[1][1] ~= from
end

-- Return the text of an error caught by `pcall`: Redis 7 raises tables, Redis 6 strings.
local function text_of(problem)
  return type(problem) == 'table' and problem.err or tostring(problem)
end

-- An item for a host is "ITEM\31HOST", and goes to the host's own queue.
local function address(item, queue)
  local id, host = string.match(item, '^(.-)\31(.*)$')
  if host then return id, host, 'host.' .. host end
  return item, nil, queue
end

-- Read the fields of a run by which its items move. A script that has read them hands them on, so that they are read
-- once; `record` and `release` keep them up to date.
local function read_fields(run)
  local fields = {}
  fields.state, fields.queue, fields.parallel, fields.next, fields.queued, fields.held, fields.hosted, fields.awaits,
    fields.lease_ms, fields.max_attempts, fields.overtaking_ms, fields.paused, fields.operation, fields.early,
    fields.enough =
    unpack(redis.call('HMGET', key(run), 'state', 'queue', 'parallel', 'next', 'queued', 'held', 'hosted', 'awaits',
      'lease_ms', 'max_attempts', 'overtaking_ms', 'paused', 'operation', 'early', 'enough'))
  return fields
end

-- Return true if items of a run may be claimed: it is running, or starts before its list of items is complete.
local function takes_claims(fields)
  return fields.state == 'running' or fields.state == 'submitting' and fields.early == '1'
end

-- Split the template of a run's messages into its texts, and names by their places between them: to fill them in costs
-- less than to search the template for each message.
local function split_template(template)
  local texts, names, position = {}, {}, 1
  for before, name, after in string.gmatch(template, '()@(%u+)@()') do
    texts[#texts + 1] = string.sub(template, position, before - 1)
    texts[#texts + 1] = string.sub(template, before, after - 1)
    names[#texts], position = name, after
  end
  texts[#texts + 1] = string.sub(template, position)
  return texts, names
end

-- Push one message for each index, and record the time, and the index of the next item.
local function publish(run, fields, indexes, next_index)
  if #indexes == 0 then return end
  local template, subject, sent = unpack(redis.call('HMGET', key(run), 'message', 'subject', 'messages'))
  local texts, names = split_template(template)
  local queue = fields.queue
  sent = integer(sent)
  local items = redis.call('HMGET', key(run, 'items'), unpack(indexes))
  local messages, scores = {}, {}
  for n, index in ipairs(indexes) do
    local id, host, target = address(items[n] or '', queue)
    local values = {
      RUN = run,
      INDEX = index,
      TASK = run .. '.' .. index .. '.' .. (sent + n),
      ITEM = string.sub(cjson.encode(host and id .. ' on ' .. host or id), 2, -2),
      QUEUE = target,
      SUBJECT = subject or '', -- escaped already
    }
    for place, name in pairs(names) do texts[place] = values[name] or texts[place] end
    messages[target] = messages[target] or {}
    table.insert(messages[target], table.concat(texts))
    scores[2 * n - 1], scores[2 * n] = now, index
  end
  -- The script is atomic: a message that cannot be pushed leaves its item in its set.
  for target, texts in pairs(messages) do redis.call('LPUSH', P .. 'mq:' .. target, unpack(texts)) end
  redis.call('ZADD', key(run, 'published'), unpack(scores))
  fields.next = next_index
  redis.call('HSET', key(run), 'messages', sent + #indexes, 'next', next_index, 'enough', fields.enough or 0)
end

-- Return true if items of a run are not published yet.
local function has_unpublished(fields)
  return integer(fields.next) < integer(fields.queued)
end

-- Publish items within the run's window and its share of the live slots: a run with a large window must not fill the
-- queue before a later, small one. Returns their number. `fields` are of a claim or a finish, which refill a share when
-- more than a quarter of it is free: with `enough` published they need not ask for it.
local function release(run, fields)
  if not fields then
    fields = read_fields(run)
    fields.enough = nil
  end
  if not takes_claims(fields) or fields.paused then return 0 end
  local first, last = integer(fields.next), integer(fields.queued)
  if first >= last and redis.call('ZCARD', key(run, 'waiting')) == 0 then return 0 end -- a short run, or the end of one
  local published = redis.call('ZCARD', key(run, 'published'))
  if integer(fields.enough) > 0 and published >= integer(fields.enough) then return 0 end
  local claimed = redis.call('ZCARD', key(run, 'leases'))
  local window = integer(fields.parallel) - published - claimed - integer(fields.held)
  if window <= 0 then return 0 end -- the common case after a claim
  local room = window
  if not fields.hosted then -- else a slow host would delay the others
    local slots = integer(redis.call('GET', P .. 'slots:' .. fields.queue))
    local runs = math.max(1, redis.call('ZCARD', P .. 'live:' .. fields.queue))
    local shares = last - first + published > 2 * slots and 1 or 2 -- what is short comes before what is long
    local share = math.max(1, math.ceil(shares * slots / runs))
    fields.enough = share - math.floor(share / 4)
    room = math.min(room, share - published)
  end
  room = math.min(room, 1000)
  if room <= 0 then return 0 end
  local due = redis.call('ZRANGEBYSCORE', key(run, 'waiting'), '-inf', now, 'LIMIT', 0, room)
  local upto = math.min(last, first + room - #due)
  local indexes = { unpack(due) }
  for index = first, upto - 1 do indexes[#indexes + 1] = tostring(index) end
  publish(run, fields, indexes, math.max(first, upto))
  if #due > 0 then redis.call('ZREM', key(run, 'waiting'), unpack(due)) end
  return #indexes
end

-- Publish the message that starts a coordinator of a detached run.
local function enqueue_coordinator(run)
  local meta = key(run)
  local template, lease = unpack(redis.call('HMGET', meta, 'coordinate_message', 'lease_ms'))
  local message = string.gsub(template, '@(%u+)@', {
    RUN = run,
    TASK = run .. '.coordinate.' .. redis.call('HINCRBY', meta, 'summons', 1),
    QUEUE = 'coordinate',
  })
  redis.call('HSET', meta, 'coordinator', 'called')
  redis.call('ZADD', P .. 'callbacks', now + integer(lease), run)
  redis.call('LPUSH', P .. 'mq:coordinate', message)
end

-- Publish it unless it is published, a coordinator is at work or the run is paused; most runs need none.
local function request_coordinator(run)
  if redis.call('HGET', key(run), 'coordinator') == 'absent' then enqueue_coordinator(run) end
end

-- Return true if an item is done, or was dropped by a cancellation. In a running run, an item in no set and without an
-- outcome is lost: the sweep tries it again.
local function has_ended(run, index)
  local state, next_index = unpack(redis.call('HMGET', key(run), 'state', 'next'))
  if integer(index) >= integer(next_index) then return false end
  for _, part in ipairs({ 'published', 'leases', 'waiting', 'behind' }) do
    if redis.call('ZSCORE', key(run, part), index) then return false end
  end
  return state ~= 'running' and state ~= 'submitting' or redis.call('HEXISTS', key(run, 'items'), index) == 0
    or redis.call('HGET', key(run, 'tries'), index) == '-1'
end

-- An item has ended: items behind it are due.
local function release_behind(run, index)
  while true do
    local due = redis.call('ZRANGEBYSCORE', key(run, 'behind'), index, index, 'LIMIT', 0, 1000)
    if #due == 0 then return end
    local scores = {}
    for n, waiting in ipairs(due) do scores[2 * n - 1], scores[2 * n] = now, waiting end
    redis.call('ZADD', key(run, 'waiting'), unpack(scores))
    redis.call('ZREM', key(run, 'behind'), unpack(due))
  end
end

-- Write an outcome and count it. `windowed`: it had a task, and so keeps a place in the window until it is
-- acknowledged, if the run has a callback.
local function record(run, fields, outcome, state, windowed)
  local meta = key(run)
  local kind = state == 'cancelled' and 'c' or not windowed and 's'
  if kind then
    redis.call('XADD', key(run, 'outcomes'), '*', 'o', outcome, 'k', kind)
  else
    redis.call('XADD', key(run, 'outcomes'), '*', 'o', outcome)
  end
  redis.call('HINCRBY', meta, state, 1)
  if state == 'cancelled' then return end
  if fields.awaits == '1' then
    redis.call('HINCRBY', meta, 'unacknowledged', 1)
    if windowed then fields.held = redis.call('HINCRBY', meta, 'held', 1) end
    if fields.state ~= 'submitting' or fields.early then request_coordinator(run) end
  end
end

-- End an item at an attempt, and release items behind it; the caller removes it from its set. `labels` of its counter:
-- state, error and duration.
local function end_item(run, fields, index, attempt, outcome, state, labels)
  record(run, fields, outcome, state, true)
  count(1, 'items', fields.operation or 'other', labels)
  if state == 'succeeded' or state == 'skipped' then
    redis.call('HDEL', key(run, 'items'), index)
    if attempt > 1 then redis.call('HDEL', key(run, 'tries'), index) end
  else
    redis.call('HSET', key(run, 'tries'), index, -1)
  end
  release_behind(run, index)
end

-- Count items that were cancelled without an outcome.
local function count_cancelled(operation, number)
  count(number, 'items', operation or 'other', 'cancelled', '-', '-')
end

-- Return how many items have neither ended nor are in any set, and how many wait behind others, if nothing else is
-- left to do; else nothing.
local function unaccounted(run)
  local meta = key(run)
  local next_index, queued, total, succeeded, failed, skipped, cancelled, unacknowledged =
    unpack(redis.call('HMGET', meta, 'next', 'queued', 'total', 'succeeded', 'failed', 'skipped', 'cancelled',
      'unacknowledged'))
  if integer(next_index) < integer(queued) or integer(unacknowledged) > 0
    or redis.call('ZCARD', key(run, 'published')) > 0
    or redis.call('ZCARD', key(run, 'leases')) > 0
    or redis.call('ZCARD', key(run, 'waiting')) > 0 then return nil end
  local behind = redis.call('ZCARD', key(run, 'behind'))
  local done = integer(succeeded) + integer(failed) + integer(skipped) + integer(cancelled)
  return integer(total) - done - behind, behind
end

-- End the run if nothing is left to do. If its counters do not add up to its total, it has lost items: it goes on
-- until the sweep has searched for them; with `problem`, an error in JSON, it fails.
local function finish_run_if_done(run, problem)
  local meta = key(run)
  local missing, behind = unaccounted(run)
  if not missing or behind > 0 and not problem then return end
  local state, failed, queue, retention, idempotency_key, operation =
    unpack(redis.call('HMGET', meta, 'state', 'failed', 'queue', 'retention_ms', 'key', 'operation'))
  if state ~= 'running' and state ~= 'cancelling' then return end
  local final = 'succeeded'
  if state == 'cancelling' then
    final = 'cancelled'
  elseif missing ~= 0 then
    if not problem then return end
    final = 'failed'
  elseif integer(failed) > 0 or redis.call('HEXISTS', meta, 'error') == 1 then
    final = 'failed'
  end
  redis.call('XADD', key(run, 'outcomes'), '*', 'end', final)
  if state == 'cancelling' and missing > 0 then redis.call('HINCRBY', meta, 'cancelled', missing) end
  if final == 'failed' and missing ~= 0 then redis.call('HSETNX', meta, 'error', problem) end
  redis.call('HSET', meta, 'state', final, 'finished_ms', now)
  redis.call('HDEL', meta, 'message', 'request', 'paused')
  redis.call('UNLINK', key(run, 'claims'), key(run, 'tries'), key(run, 'behind'), P .. 'book:' .. run)
  redis.call('ZREM', P .. 'live', run)
  redis.call('ZREM', P .. 'live:' .. queue, run)
  for _, part in ipairs({ false, 'items', 'outcomes' }) do
    redis.call('PEXPIRE', key(run, part), retention)
  end
  if idempotency_key then redis.call('PEXPIRE', P .. 'key:' .. idempotency_key, retention) end
  count(1, 'runs', operation or 'other', final)
  if state == 'cancelling' then count_cancelled(operation, missing) end
  ended = true
  request_coordinator(run)
end

-- Cancel a live run: pending items count as cancelled, items under way go on to their end.
local function cancel(run, immediate, problem)
  local meta = key(run)
  local state, queued, queue, total, succeeded, failed, skipped, cancelled, operation =
    unpack(redis.call('HMGET', meta, 'state', 'queued', 'queue', 'total', 'succeeded', 'failed', 'skipped', 'cancelled',
      'operation'))
  redis.call('UNLINK', key(run, 'published'), key(run, 'waiting'), key(run, 'behind'))
  if immediate then redis.call('HSET', meta, 'now', 1) end
  if problem then
    redis.call('HSETNX', meta, 'error', problem)
    redis.call('HSET', meta, 'awaits', 0, 'unacknowledged', 0, 'held', 0)
  end
  if state == 'submitting' or state == 'running' then
    local pending = integer(total) - integer(succeeded) - integer(failed) - integer(skipped)
      - redis.call('ZCARD', key(run, 'leases'))
    redis.call('HSET', meta, 'state', 'cancelling', 'next', queued, 'cancelled', pending)
    redis.call('ZREM', P .. 'live:' .. queue, run)
    redis.call('HDEL', meta, 'paused')
    count_cancelled(operation, pending - integer(cancelled)) -- items may have ended as cancelled before
  end
  finish_run_if_done(run)
end

-- Remove what was appended to a run that has not started.
local function empty(run)
  redis.call('UNLINK', key(run, 'items'), key(run, 'outcomes'))
  redis.call('HSET', key(run), 'total', 0, 'queued', 0, 'succeeded', 0, 'failed', 0, 'skipped', 0, 'cancelled', 0,
    'unacknowledged', 0, 'held', 0, 'cursor', '')
end

-- End a run as failed that has not started; one that has started early is cancelled for the same reason.
local function fail_unstarted(run, problem)
  local early, total = unpack(redis.call('HMGET', key(run), 'early', 'total'))
  if early and integer(total) > 0 then return cancel(run, false, problem) end
  empty(run)
  raise_number(run, 'token', 0) -- its submitter may come back
  redis.call('HSET', key(run), 'error', problem, 'state', 'running')
  finish_run_if_done(run)
end

-- Return a script's reply: alone, or in a list if the run has ended in this call, for the log.
local function answer(value)
  return ended and { value } or value
end

-- Remove a claim ("FENCE NONCE") if it is the valid one; else return false. The lease stays until the item is in its
-- new set: if that write is refused, the end of the lease brings the item back.
local function revoke_claim(run, index, claim)
  if redis.call('HGET', key(run, 'claims'), index) ~= claim then return false end
  redis.call('HDEL', key(run, 'claims'), index)
  return true
end
