-- Shared by all scripts of the ledger, and put in front of each.
--
-- ARGV[1] is the key prefix, ARGV[2] is added to the server's clock (milliseconds; 0 but in tests).
-- Keys of a run R (with the prefix in front):
--   run:R            hash    what the run is and where it stands (fields: see open.lua)
--   run:R:items      hash    index -> item, of all that have not succeeded and were not skipped
--   run:R:published  zset    index -> when its message was pushed; nobody has claimed it
--   run:R:leases     zset    index -> when its lease ends; a worker has it
--   run:R:claims     hash    index -> "FENCE NONCE"; only the whole is a claim, as a lost fence is given again
--   run:R:waiting    zset    index -> when it may be tried again
--   run:R:behind     zset    index -> the index of the item whose end it waits for
--   run:R:tries      hash    index -> attempts that ended
--   run:R:outcomes   stream  `o` an outcome, `end` the run's final state
--   book:R           hash    what its workers found out together (stagefleet/runs/book)
-- and of the fleet:
--   runs, live       zset    run -> when it was opened; all runs, and those that have not ended
--   live:Q           zset    the running ones of queue Q
--   key:K            string  the run under an idempotency key
--   workers          hash    name -> JSON {slots, queues, until}
--   slots:Q          string  the live slots that listen to queue Q
--   callbacks        zset    run -> when the sweep calls its coordinator (again); runs that wait for one
-- An index below `next` that is in none of published, leases, waiting and behind is done.

local P = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])

local function key(run, part)
  if part then return P .. 'run:' .. run .. ':' .. part end
  return P .. 'run:' .. run
end

local function integer(value)
  return tonumber(value or 0) or 0
end

-- What `pcall` caught, in words: Redis 7 raises tables, Redis 6 strings.
local function text_of(problem)
  return type(problem) == 'table' and problem.err or tostring(problem)
end

-- An item for a host is "ITEM\31HOST", and goes to the host's own queue.
local function address(item, queue)
  local id, host = string.match(item, '^(.-)\31(.*)$')
  if host then return id, host, 'host.' .. host end
  return item, nil, queue
end

-- Push one message for each index, and note when.
local function publish(run, queue, indexes)
  if #indexes == 0 then return end
  local meta = key(run)
  local template = redis.call('HGET', meta, 'message')
  local sent = redis.call('HINCRBY', meta, 'messages', #indexes) - #indexes
  local items = redis.call('HMGET', key(run, 'items'), unpack(indexes))
  local messages, scores = {}, {}
  for n, index in ipairs(indexes) do
    local id, host, target = address(items[n] or '', queue)
    local message = string.gsub(template, '@(%u+)@', {
      RUN = run,
      INDEX = index,
      TASK = run .. '.' .. index .. '.' .. (sent + n),
      ITEM = string.sub(cjson.encode(host and id .. ' on ' .. host or id), 2, -2),
      QUEUE = target,
    })
    messages[target] = messages[target] or {}
    table.insert(messages[target], message)
    scores[2 * n - 1], scores[2 * n] = now, index
  end
  for target, texts in pairs(messages) do redis.call('LPUSH', P .. 'mq:' .. target, unpack(texts)) end
  redis.call('ZADD', key(run, 'published'), unpack(scores))
end

-- Publish what has room: in the run's window, and in its share of the live slots. A run with a large
-- window must not fill the queue in front of a later, small one. Returns how many.
local function release(run)
  local meta = key(run)
  local state, queue, parallel, next_index, queued, held, hosted =
    unpack(redis.call('HMGET', meta, 'state', 'queue', 'parallel', 'next', 'queued', 'held', 'hosted'))
  if state ~= 'running' then return 0 end
  local published = redis.call('ZCARD', key(run, 'published'))
  local claimed = redis.call('ZCARD', key(run, 'leases'))
  local window = integer(parallel) - published - claimed - integer(held)
  if window <= 0 then return 0 end -- as after nearly every claim
  local slots = integer(redis.call('GET', P .. 'slots:' .. queue))
  local runs = math.max(1, redis.call('ZCARD', P .. 'live:' .. queue))
  local share = math.max(1, math.ceil(2 * slots / runs))
  if hosted then share = integer(parallel) end -- a host that is slow must not hold up the others
  local room = math.min(share - published, window, 1000)
  if room <= 0 then return 0 end
  local indexes = redis.call('ZRANGEBYSCORE', key(run, 'waiting'), '-inf', now, 'LIMIT', 0, room)
  if #indexes > 0 then redis.call('ZREM', key(run, 'waiting'), unpack(indexes)) end
  local first, last = integer(next_index), integer(queued)
  local upto = math.min(last, first + room - #indexes)
  for index = first, upto - 1 do indexes[#indexes + 1] = tostring(index) end
  if upto > first then redis.call('HSET', meta, 'next', upto) end
  publish(run, queue, indexes)
  return #indexes
end

-- Call a coordinator for a run that the fleet itself calls back for.
local function summon(run)
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

-- Call one unless it is called, there or paused already; most runs need none.
local function call(run)
  if redis.call('HGET', key(run), 'coordinator') == 'absent' then summon(run) end
end

-- Whether an item is done, or was dropped by a cancel.
local function has_ended(run, index)
  if integer(index) >= integer(redis.call('HGET', key(run), 'next')) then return false end
  for _, part in ipairs({ 'published', 'leases', 'waiting', 'behind' }) do
    if redis.call('ZSCORE', key(run, part), index) then return false end
  end
  return true
end

-- An item has ended: what waits behind it is due.
local function let_go(run, index)
  while true do
    local due = redis.call('ZRANGEBYSCORE', key(run, 'behind'), index, index, 'LIMIT', 0, 1000)
    if #due == 0 then return end
    local scores = {}
    for n, waiting in ipairs(due) do scores[2 * n - 1], scores[2 * n] = now, waiting end
    redis.call('ZADD', key(run, 'waiting'), unpack(scores))
    redis.call('ZREM', key(run, 'behind'), unpack(due))
  end
end

-- Write an outcome and count it. `awaited`: a callback has to acknowledge it.
local function record(run, outcome, state, windowed)
  local meta = key(run)
  redis.call('XADD', key(run, 'outcomes'), '*', 'o', outcome)
  redis.call('HINCRBY', meta, state, 1)
  if state == 'cancelled' then return end
  local awaits, phase = unpack(redis.call('HMGET', meta, 'awaits', 'state'))
  if awaits == '1' then
    redis.call('HINCRBY', meta, 'unacknowledged', 1)
    if windowed then redis.call('HINCRBY', meta, 'held', 1) end
    if phase ~= 'submitting' then call(run) end
  end
end

-- End the run if nothing is left to do.
local function settle(run)
  local meta = key(run)
  local state, next_index, queued, failed, unacknowledged, queue, retention, idempotency_key =
    unpack(redis.call('HMGET', meta, 'state', 'next', 'queued', 'failed', 'unacknowledged', 'queue',
      'retention_ms', 'key'))
  if state ~= 'running' and state ~= 'cancelling' then return end
  if integer(next_index) < integer(queued) or integer(unacknowledged) > 0
    or redis.call('ZCARD', key(run, 'published')) > 0
    or redis.call('ZCARD', key(run, 'leases')) > 0
    or redis.call('ZCARD', key(run, 'waiting')) > 0
    or redis.call('ZCARD', key(run, 'behind')) > 0 then return end
  local final = 'succeeded'
  if state == 'cancelling' then final = 'cancelled' elseif integer(failed) > 0 then final = 'failed' end
  redis.call('HSET', meta, 'state', final, 'finished_ms', now)
  redis.call('HDEL', meta, 'message')
  redis.call('XADD', key(run, 'outcomes'), '*', 'end', final)
  redis.call('UNLINK', key(run, 'claims'), key(run, 'tries'), P .. 'book:' .. run)
  redis.call('ZREM', P .. 'live', run)
  redis.call('ZREM', P .. 'live:' .. queue, run)
  for _, part in ipairs({ false, 'items', 'outcomes' }) do
    redis.call('PEXPIRE', key(run, part), retention)
  end
  if idempotency_key then redis.call('PEXPIRE', P .. 'key:' .. idempotency_key, retention) end
  call(run)
end

-- Cancel a live run: what is pending is counted as cancelled, what runs goes on to its end.
local function cancel(run, immediate, problem)
  local meta = key(run)
  local state, next_index, queued, queue =
    unpack(redis.call('HMGET', meta, 'state', 'next', 'queued', 'queue'))
  if immediate then redis.call('HSET', meta, 'now', 1) end
  if problem then
    redis.call('HSETNX', meta, 'error', problem)
    redis.call('HSET', meta, 'awaits', 0, 'unacknowledged', 0, 'held', 0)
  end
  if state == 'submitting' or state == 'running' then
    local pending = integer(queued) - integer(next_index)
      + redis.call('ZCARD', key(run, 'published')) + redis.call('ZCARD', key(run, 'waiting'))
      + redis.call('ZCARD', key(run, 'behind'))
    redis.call('HINCRBY', meta, 'cancelled', pending)
    redis.call('UNLINK', key(run, 'published'), key(run, 'waiting'), key(run, 'behind'))
    redis.call('HSET', meta, 'state', 'cancelling', 'next', queued)
    redis.call('ZREM', P .. 'live:' .. queue, run)
  end
  settle(run)
end

-- Take an item from its worker, if the claim ("FENCE NONCE") is the one that stands.
local function take(run, index, claim)
  if redis.call('HGET', key(run, 'claims'), index) ~= claim then return false end
  redis.call('HDEL', key(run, 'claims'), index)
  redis.call('ZREM', key(run, 'leases'), index)
  return true
end
