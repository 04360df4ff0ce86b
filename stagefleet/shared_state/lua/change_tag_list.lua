-- Add a stage to a tag list, or drop it. ARGV: storage, bucket, entry, most stages ('' drops it).
-- A bucket holds entries of equal length, in any order.
local list, bucket, entry, most = P .. 'tag-list:' .. subject, ARGV[4], ARGV[5], tonumber(ARGV[6])
local entries, place = redis.call('HGET', list, bucket) or '', nil
for n = 1, #entries, #entry do
  if string.sub(entries, n, n + #entry - 1) == entry then
    place = n
    break
  end
end
if not most then
  if not place then return end
  redis.call('HSET', list, bucket, string.sub(entries, 1, place - 1) .. string.sub(entries, place + #entry))
  redis.call('HINCRBY', list, 'count', -1)
elseif not place and redis.call('EXISTS', list) == 1 then
  if redis.call('HINCRBY', list, 'count', 1) > most then
    redis.call('UNLINK', list)
  else
    redis.call('HSET', list, bucket, entries .. entry)
  end
end
