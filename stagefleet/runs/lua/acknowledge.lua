-- Acknowledge outcomes.
-- ARGV: run, epoch, position of the last one ('' for none), position that the caller acknowledged last ('' for
-- none).
-- Returns 'ok'; 'over' if another coordinator took over or the run has ended; 'rewound' if this ledger has lost data
-- that the caller knows, so that outcomes between the two positions may differ from those that it has read.
local run, epoch, position, before = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local meta, stream = key(run), key(run, 'outcomes')
local state, current, cursor, lease, needs_ack, unacknowledged, unacknowledged_in_window =
  unpack(redis.call('HMGET', meta, 'state', 'epoch', 'cursor', 'lease_ms', 'awaits', 'unacknowledged', 'held'))
if state ~= 'running' and state ~= 'cancelling' and state ~= 'submitting' then return 'over' end
if current ~= epoch then return integer(current) < integer(epoch) and 'rewound' or 'over' end

local function is_later(left, right)
  local left_ms, left_seq = string.match(left, '(%d+)-(%d+)')
  local right_ms, right_seq = string.match(right, '(%d+)-(%d+)')
  if not left_ms or not right_ms then return left_ms ~= nil end
  if left_ms ~= right_ms then return tonumber(left_ms) > tonumber(right_ms) end
  return tonumber(left_seq) > tonumber(right_seq)
end

-- A stream only grows: if a position exists, everything before it is as the caller read it.
local function has_position(at)
  return not is_later(at, cursor) or #redis.call('XRANGE', stream, at, at, 'COUNT', 1) > 0
end

-- Count the outcomes after the cursor up to the position: those that are awaited, and those with a place in the
-- window. The stream counts, not the caller's number: a lost acknowledgement is counted with the rest.
local function count()
  local awaited, windowed, from = 0, 0, cursor == '' and '-' or cursor
  while true do
    local entries = redis.call('XRANGE', stream, from, position, 'COUNT', 500)
    for _, entry in ipairs(entries) do
      local kind = entry[2][4]
      if entry[1] ~= from and entry[2][1] == 'o' and kind ~= 'c' then
        awaited = awaited + 1
        if kind ~= 's' then windowed = windowed + 1 end
      end
    end
    if #entries < 500 then return awaited, windowed end
    from = entries[#entries][1]
  end
end

if not has_position(position) or not has_position(before) then return 'rewound' end
write_at_maxmemory()
redis.call('HSET', meta, 'coordinator_until', now + integer(lease))
redis.call('ZADD', P .. 'callbacks', 'XX', now + integer(lease), run)
if not is_later(position, cursor) then return 'ok' end
if needs_ack == '1' then
  local awaited, windowed = count()
  redis.call('HSET', meta, 'cursor', position, 'unacknowledged', math.max(0, integer(unacknowledged) - awaited),
    'held', math.max(0, integer(unacknowledged_in_window) - windowed)) -- in one command: no cursor without its counters
else
  redis.call('HSET', meta, 'cursor', position)
end
redis.call('HDEL', meta, 'failures', 'failing_since')
if release(run) == 0 then finish_run_if_done(run) end -- published items are left to do
return answer('ok')
