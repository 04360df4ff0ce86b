-- Add items and decided outcomes.
-- ARGV: run, token, nonce, limit, number of items, items..., (state, outcome)...
-- Returns 'ok', 'lost' (another submitter has it) or 'many'.
local run, token, nonce = ARGV[3], ARGV[4], ARGV[5]
local meta = key(run)
local state, holder, queued, total, last, lease =
  unpack(redis.call('HMGET', meta, 'state', 'token', 'queued', 'total', 'append', 'lease_ms'))
if state ~= 'submitting' or holder ~= token then return 'lost' end
if last == nonce then return 'ok' end
local count = integer(ARGV[7])
local decided = (#ARGV - 7 - count) / 2
if integer(total) + count + decided > integer(ARGV[6]) then return 'many' end
local pairs_, hosted = {}, false
for n = 1, count do
  pairs_[#pairs_ + 1] = integer(queued) + n - 1
  pairs_[#pairs_ + 1] = ARGV[7 + n]
  hosted = hosted or string.find(ARGV[7 + n], '\31', 1, true)
  if #pairs_ >= 2000 or n == count then
    redis.call('HSET', key(run, 'items'), unpack(pairs_))
    pairs_ = {}
  end
end
for n = 1, decided do
  record(run, ARGV[7 + count + 2 * n], ARGV[6 + count + 2 * n], false)
end
if hosted then redis.call('HSET', meta, 'hosted', 1) end
redis.call('HSET', meta, 'queued', integer(queued) + count, 'total', integer(total) + count + decided,
  'append', nonce, 'submitter_until', now + integer(lease), 'coordinator_until', now + integer(lease))
return 'ok'
