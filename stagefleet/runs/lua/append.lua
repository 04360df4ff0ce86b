-- Add items and decided outcomes, and publish the first if the run starts early.
-- ARGV: run, token, number of items and number of items and outcomes that the caller expects, limit, nonce,
--       number of new items, items..., (state, outcome)...
-- Returns the new number of items, and of items and outcomes; or 'lost' (another submitter has the run),
-- 'rewound' (this ledger has lost data) or 'many'.
local FIRST = 9
local run, token, believed_items, believed_total = ARGV[3], ARGV[4], integer(ARGV[5]), integer(ARGV[6])
local meta = key(run)
local state, holder, queued, total, last, lease, early, paused, queue =
  unpack(redis.call('HMGET', meta, 'state', 'token', 'queued', 'total', 'append', 'lease_ms', 'early', 'paused',
    'queue'))
if not state or integer(holder) < integer(token) then return 'rewound' end
if state ~= 'submitting' or holder ~= token then return 'lost' end
local nonce = token .. '.' .. ARGV[8]
if last == nonce then return { integer(queued), integer(total) } end
if integer(queued) ~= believed_items or integer(total) ~= believed_total then return 'rewound' end
local added = integer(ARGV[FIRST])
local decided = (#ARGV - FIRST - added) / 2
if believed_total + added + decided > integer(ARGV[7]) then return 'many' end
local pairs_, hosted = {}, false
for n = 1, added do
  pairs_[#pairs_ + 1] = believed_items + n - 1
  pairs_[#pairs_ + 1] = ARGV[FIRST + n]
  hosted = hosted or string.find(ARGV[FIRST + n], '\31', 1, true)
  if #pairs_ >= 2000 or n == added then
    redis.call('HSET', key(run, 'items'), unpack(pairs_))
    pairs_ = {}
  end
end
local fields, by_state = decided > 0 and read_fields(run), {}
for n = 1, decided do
  local decided_as = ARGV[FIRST - 1 + added + 2 * n]
  record(run, fields, ARGV[FIRST + added + 2 * n], decided_as, false)
  by_state[decided_as] = (by_state[decided_as] or 0) + 1
end
for decided_as, number in pairs(by_state) do count(number, 'items', fields.operation or 'other', decided_as, '-', '-') end
if hosted then redis.call('HSET', meta, 'hosted', 1) end
redis.call('HSET', meta, 'queued', believed_items + added, 'total', believed_total + added + decided,
  'append', nonce, 'submitter_until', now + integer(lease), 'coordinator_until', now + integer(lease))
if early then
  if not paused then redis.call('ZADD', P .. 'live:' .. queue, 'NX', now, run) end
  release(run)
end
return { believed_items + added, believed_total + added + decided }
