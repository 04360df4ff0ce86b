-- Record a worker's heartbeat, and count the live slots of each queue again.
-- ARGV: name, slots, queues (JSON list), milliseconds (0 signs off), release, schema version,
--       transfers (JSON list of [run, index, moved, expected bytes], '' for none),
--       (number, counter)... of what the worker has counted since its last beat.
-- Unreadable data, an entry of another version or a damaged run, is skipped.
local name, span = ARGV[3], integer(ARGV[6])
local workers = P .. 'workers'
write_at_maxmemory()
if span > 0 then
  redis.call('HSET', workers, name,
    cjson.encode({ slots = integer(ARGV[4]), queues = cjson.decode(ARGV[5]), ['until'] = now + span,
      release = ARGV[7], schema = ARGV[8], transfers = ARGV[9] ~= '' and cjson.decode(ARGV[9]) or nil }))
else
  redis.call('HDEL', workers, name)
end
local slots, longest = {}, 1
for _, queue in ipairs(cjson.decode(ARGV[5])) do slots[queue] = 0 end
local entries = redis.call('HGETALL', workers)
for n = 1, #entries, 2 do
  local readable, worker = pcall(cjson.decode, entries[n + 1])
  readable = readable and type(worker) == 'table' and type(worker.queues) == 'table'
  local till = readable and tonumber(worker['until'])
  if till and till <= now then
    redis.call('HDEL', workers, entries[n])
  elseif till then
    longest = math.max(longest, till - now)
    for _, queue in ipairs(worker.queues) do
      if type(queue) == 'string' then slots[queue] = (slots[queue] or 0) + integer(worker.slots) end
    end
  end
end
for queue, live in pairs(slots) do
  if live > 0 then
    redis.call('SET', P .. 'slots:' .. queue, live, 'PX', longest)
  else
    redis.call('DEL', P .. 'slots:' .. queue)
  end
  for _, run in ipairs(redis.call('ZRANGE', P .. 'live:' .. queue, 0, 99)) do pcall(release, run) end
end
for n = 10, #ARGV, 2 do count(integer(ARGV[n]), string.match(ARGV[n + 1], '^(%S+) (.*)$')) end
return 1
