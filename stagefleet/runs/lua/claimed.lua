-- Items that workers have, the longest leased last. ARGV: run, most items.
-- Returns index, item, claim ("FENCE NONCE WORKER") and end of the lease in ms, for each.
local run = ARGV[3]
local leases = redis.call('ZRANGE', key(run, 'leases'), 0, integer(ARGV[4]) - 1, 'WITHSCORES')
local indexes, answers = {}, {}
for n = 1, #leases, 2 do indexes[#indexes + 1] = leases[n] end
if #indexes == 0 then return answers end
local items = redis.call('HMGET', key(run, 'items'), unpack(indexes))
local claims = redis.call('HMGET', key(run, 'claims'), unpack(indexes))
for n = 1, #indexes do
  answers[n] = { integer(indexes[n]), items[n] or '', claims[n] or '', integer(leases[2 * n]) }
end
return answers
