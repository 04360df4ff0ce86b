-- Pause a live run: what is published is pending again, items under way go on to their end. ARGV: run.
-- Returns 1, 0 if it was paused before, -1 if there is no such run, or the state of one that is ending or has ended.
local run = ARGV[3]
local meta = key(run)
local state, queue, paused = unpack(redis.call('HMGET', meta, 'state', 'queue', 'paused'))
if not state then return -1 end
if state ~= 'submitting' and state ~= 'running' then return state end
write_at_maxmemory()
redis.call('HSET', meta, 'paused', 1)
-- In a paused run nothing is published, so that no claim needs to ask. They wait since their publication: they are due.
redis.call('ZUNIONSTORE', key(run, 'waiting'), 2, key(run, 'waiting'), key(run, 'published'),
  'AGGREGATE', 'MIN')
redis.call('UNLINK', key(run, 'published'))
redis.call('ZREM', P .. 'live:' .. queue, run) -- its share is the others'
return paused and 0 or 1
